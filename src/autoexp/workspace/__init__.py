"""The person's side of the disk: settings, file names, locks, git, and what kind of program is here."""

import os

# Where there is no git, importing GitPython must not fail: the command that needs git says so, in two lines.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
