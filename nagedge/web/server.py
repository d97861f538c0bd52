"""Serves the page to this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from nagedge.errors import ConfigurationError

__all__ = ["serve"]

_HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder, without a log, not kept by the browser: the next bundle's page has the same address."""

    extensions_map = {  # noqa: RUF012 - as the base class declares it
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".txt": "text/plain; charset=utf-8",
        "": "application/octet-stream",
    }

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy", "frame-ancestors 'none'"
        )  # all else is in the page itself
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        del format, args


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def serve(folder: Path, port: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the address of a server of ``folder`` on this machine, and what serves until Ctrl-C.

    Args:
        folder: the page.
        port: 0 takes a free one.

    Raises:
        ConfigurationError: the port is taken, or not allowed.
    """
    try:
        server = _Server((_HOST, port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ConfigurationError(
            f"port {port} cannot be served on ({error.strerror}): give another --port, or 0 for a free one."
        ) from None

    def wait() -> None:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return  # how one stops it

    with server:
        yield f"http://{_HOST}:{server.server_port}/", wait
