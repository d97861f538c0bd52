"""A test device: it answers the real adb client over TCP and runs commands on this machine, in a folder of its own.

It speaks what adb needs of the protocol: CNXN, OPEN, OKAY, WRTE, CLSE; the services ``shell`` (version 2, with exit
codes)
and ``sync`` (STAT, SEND, RECV). No authentication, no other service. Paths under ``/data/local/tmp`` are the folder's,
and those under ``/sys`` too when it has such a folder.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nagedge.devices.adb import adb_program

__all__ = ["TestDevice", "adb_server", "attached_device"]

_NAMES = ("CNXN", "OPEN", "OKAY", "WRTE", "CLSE")
_CODES = {name: struct.unpack("<I", name.encode())[0] for name in _NAMES}
_BY_CODE = {code: name for name, code in _CODES.items()}
_MOST_BYTES = 256 * 1024
_BANNER = b"device::ro.product.name=nagedge;ro.product.model=Test_board;ro.product.device=arm64;features=shell_v2,cmd"
_TEMPORARY = "/data/local/tmp"


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an adb server of the tests' own: it takes three seconds to start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = str(tmp_path_factory.mktemp("adb"))  # adb keeps keys there
    environment = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(port), "HOME": home}
    program = adb_program()
    subprocess.run([program, "start-server"], check=True, capture_output=True, timeout=60, env=environment)
    yield port
    subprocess.run([program, "kill-server"], check=False, capture_output=True, timeout=60, env=environment)


@contextlib.contextmanager
def attached_device(
    folder: Path, path: str, server: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestDevice]:
    """Attach a test device to :func:`adb_server`; see :class:`TestDevice` for the other arguments."""
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server))
    device = TestDevice(folder, path)
    program = adb_program()
    subprocess.run([program, "connect", device.serial], check=True, capture_output=True, timeout=60)
    try:
        yield device
    finally:
        device.unplug()
        subprocess.run([program, "disconnect", device.serial], check=False, capture_output=True, timeout=60)


class TestDevice:
    """Listens on a free port until it is closed.

    Args:
        folder: what the device has on its disk.
        path: the PATH of its commands.
        before: called with each command before it runs; may unplug the device.
    """

    __test__ = False

    def __init__(self, folder: Path, path: str, before: Callable[[str], None] = lambda command: None) -> None:
        self.folder, self.path, self.before = folder, path, before
        (folder / _TEMPORARY.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        self._plugged = True
        threading.Thread(target=self._listen, daemon=True).start()

    def unplug(self) -> None:
        """Drop every connection and take no other."""
        self._plugged = False
        # A thread that waits in accept or recv keeps a socket open that is only closed: adb would connect once more.
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def real(self, path: str) -> Path:
        """Where a path of the device lies here."""
        return self.folder / os.path.normpath("/" + path).lstrip("/")

    def run(self, command: str) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command of the device."""
        self.before(command)
        for path in (_TEMPORARY, *(["/sys/"] if (self.folder / "sys").is_dir() else [])):
            command = command.replace(path, f"{self.real(path)}{'/' if path.endswith('/') else ''}")
        return subprocess.run(
            ["sh", "-c", command], capture_output=True, check=False, env={"PATH": self.path}
        )

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if not self._plugged:
                connection.close()
                return
            self._connections.append(connection)
            threading.Thread(target=_Connection(self, connection).serve, daemon=True).start()


class _Connection:
    def __init__(self, device: TestDevice, connection: socket.socket) -> None:
        self.device, self._socket = device, connection
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}

    def send(self, name: str, first: int, second: int, data: bytes = b"") -> None:
        code = _CODES[name]
        header = struct.pack("<6I", code, first, second, len(data), sum(data) & 0xFFFFFFFF, code ^ 0xFFFFFFFF)
        with self._lock:
            self._socket.sendall(header + data)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def serve(self) -> None:
        try:
            while True:
                code, first, second, length, _, _ = struct.unpack("<6I", self._exactly(24))
                self._message(_BY_CODE[code], first, second, self._exactly(length))
        except (EOFError, OSError):
            return

    def _message(self, name: str, first: int, second: int, data: bytes) -> None:
        stream = self._streams.get(second)
        if name == "CNXN":
            self.send("CNXN", 0x01000001, _MOST_BYTES, _BANNER)
        elif name == "OPEN":
            number = len(self._streams) + 1
            self._streams[number] = _Stream(self, number, first, data.rstrip(b"\0").decode())
            self.send("OKAY", number, first)
            threading.Thread(target=self._streams[number].serve, daemon=True).start()
        elif stream is not None and name == "WRTE":
            os.write(stream.into, data)
            self.send("OKAY", second, first)
        elif stream is not None and name == "OKAY":
            stream.ready.release()
        elif stream is not None and name == "CLSE":
            stream.end()


class _Stream:
    def __init__(self, connection: _Connection, number: int, remote: int, service: str) -> None:
        self._connection, self._number, self._remote, self._service = connection, number, remote, service
        self.ready = threading.Semaphore(1)
        self._out, self.into = os.pipe()
        self._ended = False

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            os.close(self.into)

    def serve(self) -> None:
        try:
            if self._service.startswith("shell"):
                self._shell(self._service.partition(":")[2])
            elif self._service.startswith("sync:"):
                self._sync()
            self.ready.acquire(timeout=5)
            self._connection.send("CLSE", self._number, self._remote)
        except (EOFError, OSError):
            return

    def _write(self, data: bytes) -> None:
        for start in range(0, len(data), _MOST_BYTES):
            self.ready.acquire(timeout=30)
            self._connection.send("WRTE", self._number, self._remote, data[start : start + _MOST_BYTES])

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = os.read(self._out, size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _shell(self, command: str) -> None:
        done = self._connection.device.run(command)
        packets = b"".join(
            struct.pack("<BI", kind, len(text)) + text
            for kind, text in ((1, done.stdout), (2, done.stderr))
            if text
        )
        self._write(packets + struct.pack("<BIB", 3, 1, done.returncode & 255))

    def _sync(self) -> None:
        real = self._connection.device.real
        while True:
            request, length = struct.unpack("<4sI", self._read(8))
            if request == b"QUIT":
                return
            name = self._read(length).decode()
            if request == b"STAT":
                path = real(name)
                found = path.stat() if path.exists() else None
                figures = (found.st_mode, found.st_size, int(found.st_mtime)) if found else (0, 0, 0)
                self._write(struct.pack("<4s3I", b"STAT", *figures))
            elif request == b"SEND":
                path = real(name.rpartition(",")[0])
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    while True:
                        kind, size = struct.unpack("<4sI", self._read(8))
                        if kind == b"DONE":
                            break
                        file.write(self._read(size))
                self._write(struct.pack("<4sI", b"OKAY", 0))
            elif request == b"RECV":
                content = real(name).read_bytes()
                for start in range(0, len(content), 65536):
                    part = content[start : start + 65536]
                    self._write(struct.pack("<4sI", b"DATA", len(part)) + part)
                self._write(struct.pack("<4sI", b"DONE", 0))
