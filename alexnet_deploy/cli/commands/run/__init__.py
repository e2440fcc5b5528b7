"""Commands that run engines."""
