"""What is public is documented: commands and options, names of the package, keys of the run file and of targets."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import markdown
import pytest
import typer.main

import nagedge
from nagedge.cli.app import app
from nagedge.targets import Target

ROOT = Path(__file__).resolve().parents[2]
CLI = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
API = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")


def _commands() -> dict[str, typer.core.TyperCommand]:
    found = {}

    def collect(prefix: str, group: object) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                collect(f"{prefix} {name}", command)
            else:
                found[f"{prefix} {name}"] = command

    collect("nagedge", typer.main.get_command(app))
    return found


def _section(heading: str) -> str:
    """Return the part of the CLI page under a heading, without its subsections' siblings."""
    match = re.search(rf"^##+ `{re.escape(heading)}`$(.*?)(?=^##+ |\Z)", CLI, re.MULTILINE | re.DOTALL)
    assert match, f"docs/reference/cli.md has no section `{heading}`"
    return match[1]


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_command_and_option_is_documented(name: str) -> None:
    section = _section(name)
    for parameter in _commands()[name].params:
        if parameter.name == "help":
            continue
        options = [option for option in parameter.opts if option.startswith("--")]
        for text in options or [parameter.metavar or parameter.name.upper()]:
            assert f"`{text}" in section, f"`{name}`: {text} is not documented"


def test_the_options_before_a_command_are_documented() -> None:
    section = _section("nagedge")
    for parameter in typer.main.get_command(app).params:
        if not parameter.name.endswith("completion"):
            assert f"`{parameter.opts[0]}`" in section


def test_no_section_documents_what_does_not_exist() -> None:
    headings = re.findall(r"^##+ `(.*)`$", CLI, re.MULTILINE)
    assert set(headings) == {"nagedge", *_commands()}
    for name, command in _commands().items():
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        documented = set(re.findall(r"^\| `(--[a-z-]+)", _section(name), re.MULTILINE))
        assert documented <= known, f"`{name}`"


@pytest.mark.parametrize("name", nagedge.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    home = nagedge._HOMES.get(name, "nagedge")
    assert f"::: {home}.{name}\n" in API + "\n"


def test_every_documented_name_is_public() -> None:
    for path in re.findall(r"^::: (\S+)$", API, re.MULTILINE):
        module, _, name = path.rpartition(".")
        home = importlib.import_module(module)
        assert name in home.__all__
        assert hasattr(home, name)


def test_every_key_of_a_target_is_documented() -> None:
    page = (ROOT / "export/README.md").read_text(encoding="utf-8")
    for field in fields(Target):
        if field.name != "name":
            assert f"`{field.name}`" in page


@pytest.mark.parametrize(
    ("page", "module", "function", "some"),
    [
        (
            "reference/run-file.md",
            "nagedge.training.run",
            "run_json_schema",
            {"batch_size", "lr", "kind", "source"},
        ),
        (
            "bundle-format.md",
            "nagedge.manifest",
            "manifest_json_schema",
            {"sha256", "targets", "decayed", "files"},
        ),
    ],
)
def test_every_key_of_a_schema_gets_into_the_reference(
    page: str, module: str, function: str, some: set[str]
) -> None:
    text = _given_to_markdown(ROOT / "docs" / page)
    schema = getattr(importlib.import_module(module), function)()
    keys = {key for table in [schema, *schema["$defs"].values()] for key in table.get("properties", ())}
    assert some <= keys
    for key in keys:
        assert f"| `{key}` |" in text


def _given_to_markdown(page: Path) -> str:
    hooks: dict[str, Any] = {}
    exec((ROOT / "docs/_hooks.py").read_text(encoding="utf-8"), hooks)
    text: str = hooks["on_page_markdown"](page.read_text(encoding="utf-8"))
    return text


def test_every_code_block_is_shown_as_one() -> None:
    # an option that the extension does not know, and what follows the block is code up to the next one
    pages = sorted(ROOT.glob("docs/**/*.md"))
    extensions = ["attr_list", "tables", "pymdownx.superfences"]
    shown = {
        str(page.relative_to(ROOT)): markdown.markdown(_given_to_markdown(page), extensions=extensions)
        for page in pages
    }
    assert len(shown) > 40
    assert [name for name, html in shown.items() if "```" in html] == []
