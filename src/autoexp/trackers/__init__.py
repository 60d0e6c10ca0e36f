"""Trackers: they look on while a run goes on, and cannot stop it."""
