"""The ``nagedge`` command: parsing and printing only. Start-up imports Typer and nothing heavier."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its code."""
    from nagedge.cli.app import app

    app(prog_name="nagedge")
