"""Charts of counts, of modelled ranges and of what changed."""

from __future__ import annotations

from collections.abc import Sequence

from nagedge.profiling.gate import Change
from nagedge.profiling.modelled import ModelledLatency
from nagedge.profiling.results import CountProfile
from nagedge.profiling.svg import BAD, GOOD, INK, SERIES, Chart, legend_above, new_figure, plain, to_svg

__all__ = ["changes_chart", "mix_chart", "modelled_chart", "precision_chart", "training_chart"]

_MIX = (
    ("multiply-adds", ("multiply_add", "dot")),
    ("other vector", ("vector",)),
    ("loads and stores", ("load", "store", "vector_load", "vector_store")),
    ("integer", ("integer",)),
    ("branches", ("branch",)),
    ("other", ("scalar_fp", "other")),
)
"""What a bar is made of -> classes of instructions."""


def mix_chart(counts: Sequence[CountProfile]) -> Chart:
    """One bar of instruction classes an artifact and core, in percent."""
    figure, axes = new_figure(height=0.85 + 0.27 * len(counts))
    names = [_label(count) for count in counts]
    left = [0.0] * len(counts)
    for index, (name, classes) in enumerate(_MIX):
        shares = [
            100.0 * sum(getattr(count.median, one) for one in classes) / max(1, count.median.instructions)
            for count in counts
        ]
        axes.barh(
            range(len(names)), shares, left=left, color=SERIES[index], height=0.68, linewidth=0, label=name
        )
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the instructions of a call")
    legend_above(axes, 3)
    words = "; ".join(
        f"{name}: {count.median.instructions:,} instructions"
        for name, count in zip(names, counts, strict=True)
    )
    return Chart(
        "Instruction mix", to_svg(figure), f"Share of instruction classes. {words}.", tall=len(counts) > 6
    )


def precision_chart(counts: Sequence[CountProfile]) -> Chart | None:
    """Inference by core: int8 against fp32 of the same backend; None where there are no pairs."""
    found = []
    for count in counts:
        if count.name != "infer" or not count.precision.startswith("int8"):
            continue
        backend = count.target.split("-")[2]
        for other in counts:
            same = (other.name, other.device, other.batch) == ("infer", count.device, count.batch)
            if same and other.precision == "fp32" and other.target.split("-")[2:3] == [backend]:
                label = f"{backend} {count.precision} on {_core(count)}"
                found.append((label, count.median.instructions / max(1, other.median.instructions)))
                break
    if not found:
        return None
    return _ratios(
        "int8 against fp32 by core", found, "instructions of int8 / instructions of fp32",
        "Below 1, int8 executes fewer instructions. Cores without SDOT pay for int8 with more of them.",
    )  # fmt: skip


def training_chart(counts: Sequence[CountProfile]) -> Chart | None:
    """A training step against inference, by example; None where there are no pairs."""
    found = []
    for count in counts:
        for other in counts if count.name == "train" else ():
            same = (other.name, other.device, other.target) == ("infer", count.device, count.target)
            if same:
                each = (count.median.instructions / count.batch, other.median.instructions / other.batch)
                found.append((f"{count.target.split('-')[2]} on {_core(count)}", each[0] / max(1.0, each[1])))
    if not found:
        return None
    return _ratios(
        "A training step against inference", found, "instructions an example, training / inference",
        "An example of a training step against one of inference, each at its own batch size.",
    )  # fmt: skip


def _ratios(title: str, found: Sequence[tuple[str, float]], label: str, caption: str) -> Chart:
    figure, axes = new_figure(height=0.6 + 0.27 * len(found))
    values = [value for _, value in found]
    axes.barh(range(len(found)), values, color=SERIES[0], height=0.68, linewidth=0)
    axes.set_yticks(range(len(found)), [plain(name) for name, _ in found])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    for index, value in enumerate(values):
        axes.annotate(
            f"{value:.2f}",
            (value, index),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    axes.set_xlim(0, max([*values, 1.0]) * 1.16)
    axes.set_xlabel(label)
    words = "; ".join(f"{name} {value:.2f}" for name, value in found)
    return Chart(title, to_svg(figure), f"{title}: {words}.", caption)


def modelled_chart(modelled: Sequence[ModelledLatency]) -> Chart:
    """A range a device and artifact, on a logarithmic axis; no figure within it."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, axes = new_figure(height=0.6 + 0.24 * len(modelled))
    names = [f"{one.profile}: {one.name}, {_short(one.target)}" for one in modelled]
    for index, one in enumerate(modelled):
        axes.plot(
            [one.low_ms, one.high_ms], [index, index], color=SERIES[3], linewidth=5, solid_capstyle="butt"
        )
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("ms, modelled (logarithmic)")
    words = "; ".join(
        f"{name} {one.low_ms:.3g} to {one.high_ms:.3g} ms" for name, one in zip(names, modelled, strict=True)
    )
    return Chart(
        "Modelled range of latency", to_svg(figure), f"Ranges computed from counts: {words}.",
        "From: everything overlaps. To: nothing does. Measured on no device.", tall=len(modelled) > 8,
    )  # fmt: skip


def changes_chart(changes: Sequence[Change]) -> Chart | None:
    """Growth of every figure against the baseline, with its interval; None where nothing can be compared."""
    found = [(change, change.ratio) for change in changes if change.ratio is not None]
    if not found:
        return None
    figure, axes = new_figure(height=0.6 + 0.25 * len(found))
    names = []
    for index, (change, ratio) in enumerate(found):
        colour = BAD if change.verdict == "grew" else GOOD if change.verdict == "fell" else SERIES[4]
        percent = [(value - 1) * 100 for value in (ratio.low, ratio.value, ratio.high)]
        axes.barh(index, percent[1], color=colour, height=0.6, linewidth=0)
        axes.plot([percent[0], percent[2]], [index, index], color=INK, linewidth=1.2)
        figure_name = "p50" if change.figure == "p50_ms" else change.figure
        names.append(
            f"{change.name} {_short(change.target)}, {change.device.removeprefix('emulated:')}, {figure_name}"
        )
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.invert_yaxis()
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("% more than the baseline")
    words = "; ".join(
        f"{name} {(ratio.value - 1) * 100:+.1f} %" for name, (_, ratio) in zip(names, found, strict=True)
    )
    return Chart(
        "Against the baseline",
        to_svg(figure),
        f"Growth: {words}.",
        "Thin lines: 95 % intervals.",
        tall=len(found) > 8,
    )


def _label(count: CountProfile) -> str:
    return f"{count.name} {_short(count.target)}, {_core(count)}"


def _short(target: str) -> str:
    """Backend and precision of a target's name, or the name of a file of the user's own."""
    parts = target.split("-")
    return " ".join(parts[2:4]) if len(parts) >= 4 else target


def _core(count: CountProfile) -> str:
    return count.device.removeprefix("emulated:")
