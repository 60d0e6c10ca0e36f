"""Decision rules: keep a trial, or drop it."""
