"""One clear text for everything that can go wrong, and the exit code that belongs to it."""

from __future__ import annotations

import errno
import traceback

import typer
import typer.core

from nagedge.errors import NagEdgeError

__all__ = ["EXIT_INTERRUPTED", "EXIT_UNEXPECTED", "EXIT_USAGE", "ErrorsInPlainWords"]

EXIT_USAGE = 2
"""What the user gave cannot be used; also the code of click's own usage errors."""

EXIT_UNEXPECTED = 70
"""A defect of NagEdge: ``EX_SOFTWARE`` of sysexits.h."""

EXIT_INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as shells report it."""


class ErrorsInPlainWords(typer.core.TyperGroup):
    """A command group that turns exceptions into text on stderr and an exit code, never into a traceback.

    ``--debug`` prints the traceback as well.
    """

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override] # Typer's context is click's
        """Run the chosen command.

        Raises:
            typer.Exit: with the error's exit code, after its text was printed.
        """
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            if ctx.params.get("debug"):
                typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
            text, exit_code = _in_plain_words(error)
            typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
            typer.echo(text, err=True)
            raise typer.Exit(exit_code) from error


def _in_plain_words(error: BaseException) -> tuple[str, int]:
    """Return the text for the user and the exit code."""
    if isinstance(error, NagEdgeError):
        return f"{error}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return (
            (
                "interrupted. Files that were complete are kept, none is left half written; an interrupted training "
                "goes on from its last checkpoint with `nagedge train RUN.toml --resume`."
            ),
            EXIT_INTERRUPTED,
        )
    if isinstance(error, OSError) and error.errno is not None:
        what = "a file" if error.filename is None else f"{error.filename}"
        return f"{what}: {error.strerror}; check the path, its permissions and the free space.", EXIT_USAGE
    return (
        (
            f"unexpected {type(error).__name__}: {error}\n"
            "This is a defect of NagEdge. Run again with `nagedge --debug ...` for the traceback to report."
        ),
        EXIT_UNEXPECTED,
    )
