from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nagedge.errors import ConfigurationError
from nagedge.profiling import memory
from nagedge.profiling.memory import peak_memory

MIB = 1 << 20

WORKLOAD = """
import sys
import time

def load(kept_mib, spike_mib, step_mib, fail=False, pause_s=0.0):
    spike = bytearray(spike_mib << 20)
    del spike
    kept = bytearray(b"x") * (kept_mib << 20)
    def run(iteration):
        print("a runtime that talks")
        if fail:
            raise ValueError("the step went wrong")
        time.sleep(pause_s)
        block = bytearray(b"y") * (step_mib << 20)
        assert len(kept) and len(block)
    return run
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "memory_workload.py").write_text(WORKLOAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "memory_workload:load"


@pytest.mark.parametrize("step_mib", [4, 64])
def test_the_peak_of_a_step_is_apart_from_what_is_loaded(factory: str, step_mib: int) -> None:
    peak = peak_memory(factory, {"kept_mib": 40, "spike_mib": 0, "step_mib": step_mib})
    assert peak.step_bytes == pytest.approx(step_mib * MIB, abs=2 * MIB)
    assert peak.loaded_bytes == pytest.approx(40 * MIB, abs=3 * MIB)
    assert peak.process_bytes > peak.loaded_bytes + peak.step_bytes
    assert peak.evidence == "measured-host"
    assert peak.steps == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset its high-water mark")
def test_a_peak_while_loading_does_not_hide_that_of_the_step(factory: str) -> None:
    peak = peak_memory(factory, {"kept_mib": 1, "spike_mib": 128, "step_mib": 32})
    assert not peak.lower_bound
    assert "clear_refs" in peak.method
    assert peak.step_bytes == pytest.approx(32 * MIB, abs=2 * MIB)


def test_without_a_reset_the_figure_is_called_a_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_high_water", lambda: False)
    peak, _ = memory._measure('{"factory": "builtins:dict", "arguments": {}, "steps": 0}')
    assert peak.lower_bound
    assert "ru_maxrss" in peak.method
    assert peak.step_bytes >= 0


def test_a_failing_child_is_reported_with_its_last_line(factory: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ended with code 1 .*: ValueError: the step went wrong"):
        peak_memory(factory, {"kept_mib": 1, "spike_mib": 0, "step_mib": 1, "fail": True})


def test_a_child_that_hangs_is_given_up(factory: str) -> None:
    with pytest.raises(ConfigurationError, match="took more than 2 s for 3 steps"):
        peak_memory(factory, {"kept_mib": 1, "spike_mib": 0, "step_mib": 1, "pause_s": 30.0}, timeout_s=2.0)
