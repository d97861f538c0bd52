from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from nagedge.cli.errors import ErrorsInPlainWords
from nagedge.errors import DataError, NagEdgeError, VerificationError


def _invoke(error: BaseException, *options: str) -> tuple[int, str, str]:
    app = typer.Typer(cls=ErrorsInPlainWords)

    @app.callback()
    def callback(debug: bool = False) -> None: ...

    @app.command("run")
    def run() -> None:
        raise error

    result = CliRunner().invoke(app, [*options, "run"])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("error", "exit_code", "text"),
    [
        (NagEdgeError("what came"), 2, "error: what came\n"),
        (DataError("column 'digit' is missing."), 2, "error: column 'digit' is missing.\n"),
        (VerificationError("too far"), 1, "error: too far\n"),
        (
            KeyboardInterrupt(),
            130,
            (
                "error: interrupted. Files that were complete are kept, none is left half written; an interrupted "
                "training goes on from its last checkpoint with `nagedge train RUN.toml --resume`.\n"
            ),
        ),
        (
            PermissionError(13, "Permission denied", "/root/x"),
            2,
            "error: /root/x: Permission denied; check the path, its permissions and the free space.\n",
        ),
        (
            ZeroDivisionError("division by zero"),
            70,
            (
                "error: unexpected ZeroDivisionError: division by zero\nThis is a defect of NagEdge. Run again with "
                "`nagedge --debug ...` for the traceback to report.\n"
            ),
        ),
    ],
)
def test_an_exception_becomes_a_text_and_an_exit_code(
    error: BaseException, exit_code: int, text: str
) -> None:
    assert _invoke(error) == (exit_code, "", text)


def test_debug_shows_the_traceback_before_the_text() -> None:
    exit_code, stdout, stderr = _invoke(DataError("no column"), "--debug")
    assert (exit_code, stdout) == (2, "")
    assert stderr.startswith("Traceback (most recent call last):")
    assert stderr.endswith("nagedge.errors.DataError: no column\nerror: no column\n")


def test_exit_codes_of_a_command_pass_through() -> None:
    assert _invoke(typer.Exit(3)) == (3, "", "")
    exit_code, _, stderr = _invoke(typer.BadParameter("seven is not even"))
    assert exit_code == 2
    assert "seven is not even" in stderr
