"""The chart of memory over time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nagedge.profiling.memory import MemoryPeak
from nagedge.profiling.memory_timeline import MemoryTimeline
from nagedge.profiling.svg import INK, SERIES, SHADE, Chart, new_figure, to_svg

__all__ = ["memory_chart"]

Array = npt.NDArray[np.float64]

_LOADING_WIDTH = 2.0
"""In steps: loading takes many times longer than a step, and would else be all that is seen."""


def memory_chart(memory: MemoryPeak, timeline: MemoryTimeline) -> Chart:
    """Memory above the bare process while the session is loaded (shaded) and in each step, all steps equally wide."""
    steps = len(timeline.steps_ms) - 1
    base = timeline.resident_bytes[0]
    above = (np.array(timeline.resident_bytes) - base) / 2**20
    places = _places(np.array(timeline.times_ms), timeline)
    figure, axes = new_figure()
    axes.axvspan(-_LOADING_WIDTH, 0, color=SHADE, alpha=0.35, linewidth=0)
    for edge in range(steps + 1):
        axes.axvline(edge, color=INK, linewidth=0.4, alpha=0.4)
    axes.fill_between(places, above, step="post", color=SERIES[0], alpha=0.25, linewidth=0)
    axes.plot(places, above, drawstyle="steps-post", color=SERIES[0], linewidth=1.3)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-_LOADING_WIDTH, max(steps, 1))
    axes.set_ylim(min(0.0, float(above.min())), max(float(above.max()) * 1.12, 1.0))
    axes.set_xticks(
        [-_LOADING_WIDTH / 2, *(step + 0.5 for step in range(steps))],
        ["loading", *(str(step + 1) for step in range(steps))],
    )
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("step")
    axes.set_ylabel("MiB")
    lasts = (timeline.steps_ms[-1] - timeline.steps_ms[0]) / max(steps, 1) if timeline.steps_ms else 0.0
    loaded, highest = memory.loaded_bytes / 2**20, float(above.max())
    return Chart(
        title="Memory over time",
        svg=to_svg(figure),
        alternative=(
            f"Resident memory above the bare process: {loaded:.3g} MiB once loaded, at most {highest:.3g} MiB in "
            f"{steps} steps, {above[-1]:.3g} MiB at the end."
        ),
        caption=(
            f"Above the bare process ({base / 2**20:.3g} MiB). Shaded: loading, {timeline.loaded_ms:.3g} ms. Each "
            f"step is drawn equally wide; one took {lasts:.3g} ms. {timeline.readings:,} readings."
        ),
    )


def _places(times_ms: Array, timeline: MemoryTimeline) -> Array:
    """Where on the axis a time lies: loading before 0, the n-th step from n - 1 to n."""
    edges = np.array([0.0, *timeline.steps_ms])
    places: Array = np.interp(times_ms, edges, [-_LOADING_WIDTH, *range(len(timeline.steps_ms))])
    return places
