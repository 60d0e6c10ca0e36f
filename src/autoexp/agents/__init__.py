"""Agents: programs that answer in words, and edit files when asked to."""
