"""Every code block of README.md and docs/ is run, page by page, in an empty folder."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nagedge.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "export/README.md", *ROOT.glob("docs/**/*.md")]
)
LANGUAGES = {"python", "bash", "toml", "json", "text", "yaml", ""}
SET_UP = "pip install uv && uv run "

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_OPTION = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        page: the file. line: of the opening fence, from 1.
        language: the first word of the info string.
        options: ``key="value"`` of the info string: ``title`` names the file that the block shows, ``norun``
            says why it cannot be run by a test.
        code: without the fences.
    """

    page: Path
    line: int
    language: str
    options: dict[str, str]
    code: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        info, indent = match["info"].strip(), match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        found.append(
            Block(
                page,
                text.count("\n", 0, match.start()) + 1,
                info.split(" ")[0],
                dict(_OPTION.findall(info)),
                code,
            )
        )
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks_of(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: unknown language {block.language!r}"
        if "norun" in block.options:
            assert len(block.options["norun"]) > 10, f"{where}: say why the block cannot be run"
        elif "title" in block.options:
            Path(block.options["title"]).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
        elif block.language == "bash":
            _run_shell(block, where)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def _run_shell(block: Block, where: str) -> None:
    """Run the ``nagedge`` lines through the real application; other lines must be the project's own commands."""
    for line in block.code.replace("\\\n", " ").splitlines():
        line = line.partition(" #")[0].strip()  # noqa: PLW2901
        if not line or line.startswith("#"):
            continue
        if line.startswith("nagedge "):
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, f"{where}: {line}\n{result.output}"
        else:
            assert line in _project_commands(), f"{where}: a command that nothing runs: {line}"


def _project_commands() -> set[str]:
    """Return the commands that .ci/run runs, and the two of the README that begin with installing uv."""
    lines = {line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()}
    commands = {line for line in lines if line.startswith(("uv ", "pip "))}
    return {*commands, ".ci/run", f"{SET_UP}nagedge demo", f"{SET_UP}pytest"}


def test_the_two_commands_of_the_readme_are_those_that_are_checked() -> None:
    commands = [line for block in blocks_of(ROOT / "README.md") for line in block.code.splitlines()]
    assert f"{SET_UP}nagedge demo" in commands
    assert f"{SET_UP}pytest" in commands
    ci = (ROOT / ".ci/run").read_text().splitlines()
    install, test = f"{SET_UP}pytest".split(" && ")
    assert install in ci
    assert ci[-1] == test


def test_every_page_is_reachable_and_every_command_documented_page_exists() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in ROOT.glob("docs/**/*.md"):
        assert f"- {page.relative_to(ROOT / 'docs')}" in navigation, f"{page} is not in the navigation"
