"""The command line: a command is parse, one call, render. Nothing here imports torch."""
