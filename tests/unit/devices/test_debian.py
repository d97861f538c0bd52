"""Where Debian's packages come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from nagedge.devices import debian
from nagedge.devices.debian import find_mirror
from nagedge.errors import RuntimeUnavailableError


def sources(root: Path, name: str, text: str) -> Path:
    path = root / "etc/apt" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list", "# deb http://a/debian x\ndeb [arch=amd64] http://mirror.test/debian trixie main\n"),
        ("sources.list.d/debian.sources", "Types: deb\nURIs: http://mirror.test/debian/\nSuites: bookworm\n"),
        (
            "sources.list",
            "deb http://x.test/other stable main\ndeb http://mirror.test/debian bookworm main\n",
        ),
    ],
)
def test_the_mirror_of_the_system_is_used(tmp_path: Path, name: str, text: str) -> None:
    assert find_mirror(sources(tmp_path, name, text)) == "http://mirror.test/debian"


def test_a_system_without_debian_is_asked_for_a_mirror(tmp_path: Path) -> None:
    root = sources(tmp_path, "sources.list", "deb http://archive.test/ubuntu noble main\n")
    with pytest.raises(RuntimeUnavailableError, match="nagedge devices setup arm64 --mirror ADDRESS"):
        find_mirror(root)


def test_what_a_program_of_the_system_says_is_passed_on() -> None:
    with pytest.raises(
        RuntimeUnavailableError, match=r"sh -c failed: E: no network\. .* what is complete is kept"
    ):
        debian._run(["sh", "-c", "echo starting; echo 'E: no network' >&2; exit 100"])
    with pytest.raises(RuntimeUnavailableError, match="needs 'no-such-program'"):
        debian._run(["no-such-program"])
    with pytest.raises(OSError, match="No space left"):
        debian._run(["sh", "-c", "echo 'dpkg: No space left on device' >&2; exit 2"])
