"""The person's side of the disk: settings, file names, locks, git, and what kind of program is here."""
