"""The plugin boundary: everything that a plugin imports."""
