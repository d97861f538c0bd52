"""Debian packages unpacked into a folder: with apt, without root's rights and without touching the system's packages.

apt is given a state, a cache and sources of its own; what it downloads it checks against Debian's keys. One release is
used whatever the system has, so that what is emulated is the same everywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nagedge.errors import RuntimeUnavailableError

__all__ = ["RELEASE", "find_mirror", "system_architecture", "unpack_packages"]

RELEASE = "bookworm"
"""Debian 12: its QEMU is the last with both a dynamic ``qemu-user`` and the plugin interface that is counted with."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def system_architecture() -> str:
    """Return Debian's name of this machine's processor, such as ``"amd64"``."""
    return _run(["dpkg", "--print-architecture"]).strip()


def find_mirror(root: Path = Path("/")) -> str:
    """Return the address of the Debian archive that the system's own apt uses.

    Args:
        root: where ``etc/apt`` lies.

    Raises:
        RuntimeUnavailableError: it uses none, as on Ubuntu.
    """
    folder = root / "etc/apt"
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    for file in files:
        if file.suffix in (".list", ".sources") and file.is_file():
            for address in _addresses(file.read_text(encoding="utf-8", errors="replace")):
                if re.search(r"/debian/?$", address):
                    return address.rstrip("/")
    raise RuntimeUnavailableError(
        "the arm64 emulator is made of Debian's packages, and apt on this system has no Debian archive among its "
        "sources. Name one: `nagedge devices setup arm64 --mirror ADDRESS`."
    )


def _addresses(text: str) -> Iterator[str]:
    for line in text.splitlines():
        found = re.match(r"\s*(?:deb\s+(?:\[[^\]]*\]\s*)?|URIs:\s*)(.*)$", line)
        if found:
            yield from (word for word in found[1].split() if "://" in word)


def unpack_packages(
    folder: Path, packages: Sequence[str], *, architecture: str, mirror: str, scratch: Path
) -> dict[str, str]:
    """Download packages with all that they depend on, and unpack them.

    Args:
        folder: where to unpack.
        packages: names. architecture: Debian's name, ``"arm64"``.
        mirror: address of the archive. scratch: downloads and apt's state are kept in it, and used again.

    Returns:
        The packages by name, with their versions.

    Raises:
        RuntimeUnavailableError: apt or dpkg fails; the text holds its reason.
        OSError: the disk is full, or the folder cannot be written.
    """
    state = scratch / f"apt-{architecture}"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").write_text(
        "", encoding="ascii"
    )  # nothing counts as installed: the closure is complete
    keyring = _keyring(scratch)
    sources = f"deb [signed-by={keyring}] {mirror} {RELEASE} main\n"
    (state / "sources.list").write_text(sources, encoding="utf-8")
    settings = {
        "APT::Architecture": architecture, "APT::Install-Recommends": "false", "APT::Sandbox::User": _user(),
        "Acquire::Languages": "none", "Acquire::Retries": "3",
        "Dir::State": state, "Dir::State::lists": state / "lists", "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache", "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
    }  # fmt: skip
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    lines += ["#clear APT::Architectures;", f'APT::Architectures {{"{architecture}";}};']
    (state / "apt.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    variables = {"APT_CONFIG": str(state / "apt.conf")}
    _run(["apt-get", "-q", "update"], variables)
    planned = _run(["apt-get", "-q", "install", "-y", "--print-uris", *packages], variables)
    files = re.findall(r"^'[^']*' (\S+\.deb) \d+", planned, re.MULTILINE)
    _run(["apt-get", "-q", "install", "-y", "--download-only", *packages], variables)
    versions = {}
    for file in files:
        archive = state / "cache/archives" / file
        found = archive if archive.is_file() else state / "cache/archives" / file.replace("%3a", ":")
        _run(["dpkg-deb", "--extract", str(found), str(folder)])
        name, version, _ = file.split("_")
        versions[name] = version.replace("%3a", ":")
    return versions


def _keyring(scratch: Path) -> Path:
    """Debian's keys: the system's, else those of the package that the system's own archive has of them (Ubuntu)."""
    if _KEYRING.is_file():
        return _KEYRING
    kept = scratch / "debian-archive-keyring.gpg"
    if not kept.is_file():
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            _run(["apt-get", "-q", "download", "debian-archive-keyring"], folder=Path(folder))
            for archive in Path(folder).glob("*.deb"):
                _run(["dpkg-deb", "--extract", str(archive), folder])
            shutil.copy(Path(folder) / str(_KEYRING).lstrip("/"), kept)
    return kept


def _user() -> str:
    """The user that apt downloads as; root would become one that cannot write into the cache."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _run(
    command: Sequence[str], variables: Mapping[str, str] | None = None, *, folder: Path | None = None
) -> str:
    """Run a program of the system; return what it prints."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(variables or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=folder,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise RuntimeUnavailableError(
            f"the arm64 emulator needs {command[0]!r}, which this system does not have; it is made on Debian and "
            "Ubuntu only. Use one of these, for example in a container."
        ) from None
    if done.returncode != 0:
        lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"E:|dpkg|W: GPG|Err:", line.strip())] or lines[-1:]
        reason = errors[0].strip() if errors else f"exit code {done.returncode}"
        if "No space left" in f"{done.stdout}{done.stderr}":
            raise OSError(28, "No space left on device", str(folder or ""))
        raise RuntimeUnavailableError(
            f"{' '.join(command[:2])} failed: {reason.rstrip('.')}. Run `nagedge devices setup arm64` again when "
            "there is "
            "a network; what is complete is kept."
        )
    return done.stdout
