"""The two pluggy markers, on their own so that anything may import them."""

import pluggy

PROJECT = "autoexp"
"""Name of the project for pluggy, and of the entry-point group."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
