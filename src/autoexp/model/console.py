"""Progress for people: one line that rewrites itself on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Shows short status lines without flooding a log.

    `every` is the least number of seconds between two lines when the stream is not a terminal. A `silent` one shows
    nothing.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 2.0, silent: bool = False) -> None:
        self.silent = silent
        self.stream = sys.stdout if stream is None else stream
        self.terminal = self.stream.isatty()
        self.every = 0.1 if self.terminal else every
        self.last = float("-inf")
        self.width = 0  # characters of the line now on the terminal

    def update(self, text: str) -> None:
        """Show a passing state; dropped if the last one was a moment ago."""
        now = time.monotonic()
        if self.silent or now - self.last < self.every:
            return
        self.last = now
        if self.terminal:
            self.stream.write("\r" + text.ljust(self.width))
            self.width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """Show a line that stays."""
        if self.silent:
            return
        self.close()
        self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End a line that is being rewritten, so that what comes next starts on its own."""
        if self.width:
            self.stream.write("\n")
            self.stream.flush()
            self.width = 0
