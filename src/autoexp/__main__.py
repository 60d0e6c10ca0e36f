"""`python -m autoexp`."""

from autoexp.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
