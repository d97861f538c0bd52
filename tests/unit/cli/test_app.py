from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import nagedge
from nagedge.cli.app import app

COMMANDS = {
    "init",
    "train",
    "tune",
    "export",
    "verify",
    "finetune",
    "fit-device",
    "profile",
    "targets",
    "web",
    "doctor",
    "demo",
    "devices",
}
HEAVY = {
    "torch",
    "numpy",
    "pydantic",
    "onnx",
    "onnxruntime",
    "pyarrow",
    "matplotlib",
    "lightning_fabric",
    "jinja2",
}


def _run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_commands_are_the_documented_ones() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(command in result.output for command in COMMANDS)
    registered = {command.name for command in app.registered_commands}
    assert registered | {group.name for group in app.registered_groups} == COMMANDS


@pytest.mark.parametrize(
    ("arguments", "may"),
    [
        (["--help"], set()),
        (["--version"], set()),
        # Typer itself checks the arguments of a command with pydantic.
        (["train", "--help"], {"pydantic"}),
        (["targets", "ls"], {"pydantic"}),
    ],
)
def test_answering_imports_none_of_the_heavy_packages(arguments: list[str], may: set[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['nagedge', *{arguments!r}]\n"
        "from nagedge.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print('MODULES', *sys.modules)\n"
    )
    modules = _run_python(code).rpartition("MODULES")[2].split()
    assert "nagedge.cli.app" in modules
    assert HEAVY.intersection(modules) <= may


def test_importing_the_package_imports_none_of_its_dependencies() -> None:
    modules = set(_run_python("import sys, nagedge; print(*sys.modules)").split())
    assert "nagedge" in modules
    assert (HEAVY | {"typer", "rich"}).isdisjoint(modules)


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"nagedge {nagedge.__version__}\n"


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert version("nagedge") == nagedge.__version__


@pytest.mark.parametrize("name", sorted(set(nagedge.__all__)))
def test_every_public_name_can_be_had(name: str) -> None:
    value = getattr(nagedge, name)
    assert callable(value)
    assert value.__doc__


def test_a_public_function_survives_the_import_of_the_module_of_its_name() -> None:
    code = (
        "import nagedge.export, sys\n"
        "from nagedge.export import export\n"
        "assert nagedge.export is export, nagedge.export\n"
        "assert sys.modules['nagedge.export'].export is export\n"
    )
    _run_python(code)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nagedge' has no attribute 'exprot'"):
        nagedge.exprot  # noqa: B018
    assert {"export", "verify", "__version__"} <= set(dir(nagedge))


def test_an_unknown_command_is_a_usage_error_with_the_nearest_name() -> None:
    result = CliRunner().invoke(app, ["tarain"])
    assert result.exit_code == 2
    assert "Did you mean 'train'?" in result.output
