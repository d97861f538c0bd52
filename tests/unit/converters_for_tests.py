"""Functions that a converting process is made to run: well-behaved ones and every kind of bad one."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nagedge.errors import ConfigurationError

Payload = dict[str, Any]


def echo(payload: Payload) -> dict[str, bytes]:
    return {
        key: value if isinstance(value, bytes) else repr(value).encode() for key, value in payload.items()
    }


def surroundings(payload: Payload) -> dict[str, bytes]:
    """Make noise and files, and tell what the process is like."""
    sys.stdout.write("noise\n")
    sys.stderr.write("more noise\n")
    logging.warning("advice")  # noqa: LOG015 - as converters do
    Path("left behind").write_text("x")
    with tempfile.NamedTemporaryFile(delete=False) as file:
        temporary = file.name
    imported = "numpy" in sys.modules or "torch" in sys.modules
    values = {
        "cwd": Path.cwd(),
        "temporary": temporary,
        "order": list({"a", "b", "c", "d", "e"}),
        "heavy": imported,
    }
    return {key: str(value).encode() for key, value in values.items()}


def precision_modules(payload: Payload) -> dict[str, bytes]:
    from nagedge.backends.onnx_precision import convert, float16, int8, ort_format

    return {
        "torch": str("torch" in sys.modules).encode(),
        "modules": repr([convert, float16, int8, ort_format]).encode(),
    }


def own_error(payload: Payload) -> dict[str, bytes]:
    raise ConfigurationError("the text\nof two lines")


def other_error(payload: Payload) -> dict[str, bytes]:
    raise ValueError("node 'Conv_3' is not known\nwith a long story")


def silent_error(payload: Payload) -> dict[str, bytes]:
    raise KeyError


def segfault(payload: Payload) -> dict[str, bytes]:
    sys.stdout.write("[E] bad node Conv_3\n")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)
    return {}


def killed(payload: Payload) -> dict[str, bytes]:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return {}


def leaves(payload: Payload) -> dict[str, bytes]:
    sys.exit(payload["code"])


def hangs(payload: Payload) -> dict[str, bytes]:
    time.sleep(600)
    return {}


def no_bytes(payload: Payload) -> dict[str, Any]:
    return {"model": object()}
