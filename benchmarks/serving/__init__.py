"""``serve`` beside LitServe, with the same engine and runner."""
