"""A session: the one process that works on a run, by asking what is next, doing it, and writing it down."""
