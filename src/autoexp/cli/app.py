"""The Typer app, and the one place where errors become two lines and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated, Any

import typer

from autoexp.errors import AutoexpError, UsageError, must

BUILTINS = ("run", "look", "workspace", "steer", "guide", "check")
"""Command modules of this folder; they register through the same hook as a plugin's."""


def build() -> typer.Typer:
    """The app with the commands of all plugins, built-ins first."""
    from autoexp.plugins.manager import plugin_manager

    app = typer.Typer(
        name="autoexp",
        help="Research on a program by experiment: propose, train, judge, keep or drop, and go on.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    manager = plugin_manager(f"autoexp.cli.{name}" for name in BUILTINS)
    for implementation in manager.hook.autoexp_register_commands.get_hookimpls():
        implementation.function(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from autoexp import __version__

        typer.echo(f"autoexp {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the command."""


def main() -> int:
    """Run the command line; returns the exit code. Errors are two lines on stderr: what, and the next command."""
    gc.set_threshold(100_000)  # what is imported is there to stay: to look through it while it comes finds nothing
    try:
        return _main()
    finally:
        gc.freeze()  # nor does it when the interpreter ends


def _main() -> int:
    _open_standard_streams()
    usage: Any = typer.BadParameter.__mro__[1]  # the UsageError of the click that Typer brings along
    try:
        code = build()(prog_name="autoexp", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except usage as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return UsageError.exit_code
        return fail(_usage(error))
    except typer.Abort:
        return fail(AutoexpError("aborted", ""), 130)
    except AutoexpError as error:
        return fail(error)
    except KeyboardInterrupt:
        return fail(AutoexpError("interrupted", ""), 130)
    except BrokenPipeError:
        return 0  # whoever read the output has seen enough
    except OSError as error:
        return fail(AutoexpError(f"{error.filename or 'the system'}: {error.strerror or error}", "autoexp doctor"))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _usage(error: Any) -> AutoexpError:
    """Typer's complaint in our two lines."""
    command = error.ctx.command_path if error.ctx is not None else "autoexp"
    return UsageError(must(" ".join(error.format_message().split())), f"{command} --help")


def _open_standard_streams() -> None:
    """Where 0, 1 or 2 is closed (`>&-`, some daemons), the next file that is opened would take its place."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - it stays open


def fail(error: AutoexpError, code: int | None = None) -> int:
    for line in (f"error: {error}", f"  try: {error.hint}" if error.hint else ""):
        # what a program printed may be in it: no control character of it reaches the terminal
        shown = "".join(char if char.isprintable() else " " for char in line).rstrip()
        if shown:
            print(shown, file=sys.stderr)
    return error.exit_code if code is None else code


if __name__ == "__main__":
    raise SystemExit(main())
