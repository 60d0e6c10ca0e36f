"""Plugins: found, loaded, and asked for what they provide."""
