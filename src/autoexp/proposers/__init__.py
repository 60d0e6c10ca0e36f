"""Proposers: what has ideas, one file each."""
