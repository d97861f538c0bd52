"""Training throughput beside a bare PyTorch loop on the same batches: ``python -m tests.benchmarks.throughput``."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch

from nagedge.data.load import load_data
from nagedge.models import build_model
from nagedge.tasks import total_loss
from nagedge.training.batches import epoch_order
from nagedge.training.fit import make_fabric
from nagedge.training.nesterov import parameter_groups
from nagedge.training.run import Run, load_run
from nagedge.training.step import set_up, training_step
from tests.benchmarks.rounds import measure, ratio

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def main() -> None:
    """Print both medians and the ratio of their throughputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="steps of each side (default: 200)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(EXAMPLES / "digits.toml")
    run = run.model_copy(update={"balancing": type(run.balancing)()})
    samples = measure(sides(run), rounds=options.rounds)
    nagedge, bare = samples["nagedge"].cpu_ms, samples["bare"].cpu_ms
    found = ratio(bare, nagedge)
    print("step of docs/examples/digits.toml with a plain sum, processor time, medians:")
    print(f"NagEdge {np.median(nagedge):.2f} ms, bare loop {np.median(bare):.2f} ms")
    print(f"throughput {found.value:.3f} ({found.low:.3f} to {found.high:.3f}) of the bare loop's")


def sides(run: Run) -> dict[str, Callable[[], None]]:
    """Return one step of NagEdge's and of a loop without anything that NagEdge adds, on the same rows."""
    data = load_data(run.data, run.task_specs())
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(make_fabric(1, "cpu", "auto"), run, Path(folder), run.task_specs(), data, None)
    setup.model.train()
    model = build_model(run.model, data.input, run.task_specs(), run.seed).train()
    settings = run.optimizer
    optimizer = torch.optim.SGD(
        parameter_groups(model, settings.weight_decay), lr=settings.lr, momentum=settings.momentum, nesterov=True,
        fused=True,
    )  # fmt: skip
    order = epoch_order(len(setup.train), seed=run.seed, epoch=0)
    count = {"nagedge": 0, "bare": 0}

    def rows(name: str) -> torch.Tensor:
        place = count[name] % setup.steps_per_epoch
        count[name] += 1
        return order[place * setup.batch_size : (place + 1) * setup.batch_size]

    def ours() -> None:
        training_step(setup, count["nagedge"] % setup.steps, rows("nagedge"))

    def bare() -> None:
        batch = setup.train.batch(rows("bare"))
        optimizer.zero_grad()
        total_loss(setup.tasks, model(batch.x), batch.targets)[0].backward()
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()

    return {"nagedge": ours, "bare": bare}


if __name__ == "__main__":
    main()
