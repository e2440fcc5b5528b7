"""Commands that search by features."""
