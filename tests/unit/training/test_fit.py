"""Training: it learns, it resumes to the same bits, it stops when it diverges."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError, DataError, TrainingDivergedError
from nagedge.training import fit as fit_module
from nagedge.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from nagedge.training.events import (
    CheckpointWritten,
    EpochFinished,
    Event,
    StepsDone,
    TrainingFinished,
    TrainingStarted,
)
from nagedge.training.fit import train
from nagedge.training.run import Run, load_run
from nagedge.training.step import training_step

MakeRun = Callable[..., Run]
MakeData = Callable[..., DataSplits]
STEPS = 18  # 96 rows in batches of 16, 3 epochs


def bits(checkpoint: Checkpoint) -> str:
    """One hash of every parameter, buffer and momentum value."""
    digest = hashlib.sha256()
    for tensors in ({k: v.numpy() for k, v in checkpoint.params().items()}, checkpoint.momentum()):
        for name, array in sorted(tensors.items()):
            digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_it_learns_and_reports(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    events: list[Event] = []
    run = make_run(schedule={"epochs": 40}, model={"trunk": "mlp", "hidden": [32]})
    checkpoint = train(run, out=tmp_path / "c", data=make_data(480), progress=events.append)
    kinds = [type(event) for event in events]
    assert kinds[:2] == [TrainingStarted, CheckpointWritten]
    assert kinds[-1] is TrainingFinished
    epochs = [event for event in events if isinstance(event, EpochFinished)]
    assert tuple(epochs) == checkpoint.state.history
    assert [event.epoch for event in epochs] == list(range(1, 41))
    steps = [event.step for event in events if isinstance(event, StepsDone)]
    assert steps == sorted(set(steps))
    assert steps[-1] == checkpoint.state.steps == 40 * 30
    assert set(epochs[0].losses) == {"loss", "kind", "level", "tags"}
    assert epochs[-1].losses["loss"] < epochs[0].losses["loss"] / 4
    assert checkpoint.finished
    assert checkpoint.metrics == epochs[-1].validation
    assert checkpoint.metrics["kind"]["accuracy"] > 0.8
    assert checkpoint.state.test["level"]["r2"] > 0.9


def test_metrics_are_in_the_units_of_the_task(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    data = make_data()
    train(make_run(), out=tmp_path / "standardised", data=data)
    plain = dataclasses.replace(data, preprocessing=dataclasses.replace(data.preprocessing, targets={}))
    train(make_run(), out=tmp_path / "plain", data=plain)
    standardised, raw = (
        Checkpoint.load(tmp_path / name).metrics["level"] for name in ("standardised", "plain")
    )
    assert standardised["mae"] == pytest.approx(3 * raw["mae"], rel=1e-5)  # the standard deviation is 3
    assert standardised["r2"] == pytest.approx(raw["r2"], rel=1e-5)


def test_the_first_step_is_the_reference_update(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    from nagedge.models import build_model
    from nagedge.tasks import total_loss
    from nagedge.training.batches import epoch_order
    from nagedge.training.nesterov import is_decayed, nesterov_step
    from nagedge.training.schedule import learning_rate

    run = make_run(
        model={"trunk": "mlp", "hidden": [16, 8]},
        schedule={"epochs": 1},
        optimizer={"lr": 0.3, "weight_decay": 0.1},
    )
    data = make_data(weighted=True)
    after = train(run, out=tmp_path / "c", data=data)
    model = build_model(run.model, data.input, run.task_specs(), run.seed)
    params = {name: param.detach().clone() for name, param in model.named_parameters()}
    buffers = {name: torch.zeros_like(param) for name, param in params.items()}
    order = epoch_order(96, seed=run.seed, epoch=0).numpy()
    for step in range(6):
        batch = data.train.take(order[step * 16 : (step + 1) * 16])
        model.load_state_dict(params)
        targets = {name: torch.from_numpy(target) for name, target in batch.targets.items()}
        assert batch.sample_weight is not None
        outputs = model(torch.from_numpy(batch.inputs["features"]))
        total, _ = total_loss(run.task_specs(), outputs, targets, torch.from_numpy(batch.sample_weight))
        gradients = torch.autograd.grad(total, list(model.parameters()))
        for (name, param), gradient in zip(params.items(), gradients, strict=True):
            params[name], buffers[name] = nesterov_step(
                param, gradient, buffers[name], lr=learning_rate(step, lr=0.3, steps=6), momentum=0.9,
                weight_decay=0.1 if is_decayed(name, param) else 0.0,
            )  # fmt: skip
    for name, value in after.params().items():
        torch.testing.assert_close(value, params[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            torch.from_numpy(after.momentum()[name]), buffers[name], rtol=1e-4, atol=1e-6
        )


def test_clipping_bounds_the_gradient(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    run = make_run(optimizer={"lr": 0.1, "clip_norm": 1e-6}, schedule={"epochs": 1})
    train(run, out=tmp_path / "c", data=make_data())
    total = (
        sum(float((buffer**2).sum()) for buffer in Checkpoint.load(tmp_path / "c").momentum().values()) ** 0.5
    )
    assert 0 < total <= 1e-6 / (1 - 0.9) * 1.001


def test_the_same_run_gives_the_same_bits_and_leaves_the_generator_alone(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    state = torch.get_rng_state()
    one = train(make_run(), out=tmp_path / "a", data=make_data())
    torch.manual_seed(99)
    torch.set_rng_state(state)
    assert bits(train(make_run(), out=tmp_path / "b", data=make_data())) == bits(one)
    assert torch.equal(torch.get_rng_state(), state)
    assert bits(train(make_run(seed=6), out=tmp_path / "c", data=make_data())) != bits(one)


@pytest.mark.parametrize("killed_after", range(STEPS))
def test_a_run_killed_between_any_two_steps_resumes_to_the_same_bits(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = make_run(checkpoint_steps=4), make_data()
    whole = train(run, out=tmp_path / "whole", data=data)
    real = training_step

    def step_or_die(setup: object, step: int, rows: object) -> torch.Tensor:
        if step == killed_after:
            raise Killed
        return real(setup, step, rows)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "training_step", step_or_die)
        with pytest.raises(Killed):
            train(run, out=tmp_path / "killed", data=data)
    saved = Checkpoint.load(tmp_path / "killed").state.step
    assert saved == max(step for step in (0, 4, 6, 8, 12, 16) if step <= killed_after)
    resumed = train(run, out=tmp_path / "killed", data=data, resume=True)
    assert bits(resumed) == bits(whole)
    without_time = [
        [dataclasses.replace(record, seconds=0) for record in checkpoint.state.history]
        for checkpoint in (resumed, whole)
    ]
    assert without_time[0] == without_time[1]
    assert resumed.state.test == whole.state.test


def test_a_run_killed_by_the_system_at_any_moment_resumes_to_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 20)).astype(np.float32)
    np.savez(tmp_path / "x.npz", input=x, a=x[:, :3].argmax(axis=1), b=x[:, 0])
    (tmp_path / "run.toml").write_text(
        'batch_size = 32\ncheckpoint_steps = 3\n[data]\nsource = "arrays"\npath = "x.npz"\n'
        '[model]\ntrunk = "mlp"\ndropout = 0.3\n[tasks.a]\nkind = "classification"\nsize = 3\n'
        '[tasks.b]\nkind = "regression"\n[schedule]\nepochs = 4\n'
    )
    program = (
        "import sys; from nagedge.training.fit import train; train(sys.argv[1], out=sys.argv[2], resume=True)"
    )

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", program, str(tmp_path / "run.toml"), str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    whole = start("whole")
    moments = random.Random(0)
    killed = 0
    for _ in range(3):
        process = start("killed")
        before = step_on_disk(tmp_path / "killed")
        while process.poll() is None and step_on_disk(tmp_path / "killed") == before:
            time.sleep(0.005)
        time.sleep(moments.random() * 0.15)  # anywhere within or between the next steps and writes
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        assert Checkpoint.load(tmp_path / "killed").state.step >= max(before, 0)
    assert killed == 3
    last = start("killed")
    outputs = [process.communicate()[0] for process in (last, whole)]
    assert [last.returncode, whole.returncode] == [0, 0], outputs
    assert outputs == [b"", b""]  # nothing is printed
    one, other = Checkpoint.load(tmp_path / "killed"), Checkpoint.load(tmp_path / "whole")
    assert one.finished
    assert bits(one) == bits(other)


def step_on_disk(path: Path) -> int:
    try:
        return int(json.loads((path / CHECKPOINT_FILE).read_text())["state"]["step"])
    except FileNotFoundError:
        return -1


def test_a_finished_run_is_not_trained_again(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    train(make_run(), out=tmp_path / "c", data=make_data())
    before = (tmp_path / "c" / CHECKPOINT_FILE).stat().st_mtime_ns
    assert train(make_run(), out=tmp_path / "c", data=make_data(), resume=True).finished
    assert (tmp_path / "c" / CHECKPOINT_FILE).stat().st_mtime_ns == before


def test_a_checkpoint_is_neither_overwritten_nor_continued_by_another_run(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    first = train(make_run(), out=tmp_path / "c", data=make_data())
    with pytest.raises(
        ConfigurationError, match=r"already holds a checkpoint\. Continue it with --resume, or give another"
    ):
        train(make_run(), out=tmp_path / "c", data=make_data())
    with pytest.raises(ConfigurationError, match="belongs to another run: optimizer, seed differ"):
        train(make_run(seed=1, optimizer={"lr": 1.0}), out=tmp_path / "c", data=make_data(), resume=True)
    assert bits(Checkpoint.load(tmp_path / "c")) == bits(first)


def test_other_data_is_noticed_on_resuming(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(setup: object, step: int, rows: object) -> torch.Tensor:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "training_step", die)
        with pytest.raises(Killed):
            train(make_run(), out=tmp_path / "c", data=make_data())
    with pytest.raises(
        ConfigurationError, match="was trained on other data: its run has 18 steps, this data gives 24"
    ):
        train(make_run(), out=tmp_path / "c", data=make_data(128), resume=True)


def poisoned(data: DataSplits, part: str, task: str, value: float) -> DataSplits:
    examples = getattr(data, part)
    target = examples.targets[task].copy()
    target[40 if part == "train" else 3] = value
    examples = dataclasses.replace(examples, targets=examples.targets | {task: target})
    return dataclasses.replace(data, **{part: examples})


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    from nagedge.training.batches import epoch_order

    run = make_run(checkpoint_steps=1)
    step = int(np.flatnonzero(epoch_order(96, seed=run.seed, epoch=0).numpy() == 40)[0]) // 16 + 1
    with pytest.raises(TrainingDivergedError) as error:
        train(run, out=tmp_path / "c", data=poisoned(make_data(), "train", "level", float("nan")))
    assert str(error.value) == (
        f"training diverged: the loss of task 'level' became nan in step {step}; the checkpoint of step {step - 1} in"
        f" {str(tmp_path / 'c')!r} is kept. Lower optimizer.lr, set optimizer.clip_norm, or check the data of this"
        " task."
    )
    kept = Checkpoint.load(tmp_path / "c")
    assert kept.state.step == step - 1
    assert all(bool(torch.isfinite(value).all()) for value in kept.params().values())


class SteepTrunk(nn.Module):
    """Finite everywhere, but the gradient of a square root at 0 is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.offset = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.linear(x) + self.offset.sqrt()
        return features


def test_a_gradient_that_is_not_finite_names_the_task(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nagedge.models.trunks.load_factory", lambda reference, options: SteepTrunk())
    run = make_run(model={"trunk": "my_nets:steep"})
    text = r"the norm of the gradient became (inf|nan) in step 1, where task '(kind|level|tags)' has the largest loss, "
    with pytest.raises(TrainingDivergedError, match=text):
        train(run, out=tmp_path / "c", data=make_data())
    assert Checkpoint.load(tmp_path / "c").state.step == 0


def test_a_validation_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    with pytest.raises(
        TrainingDivergedError, match="the validation loss of task 'level' is not finite after step 6"
    ):
        train(make_run(), out=tmp_path / "c", data=poisoned(make_data(), "validation", "level", float("inf")))
    assert Checkpoint.load(tmp_path / "c").state.step == 0


def test_a_step_too_large_stops_the_run(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    run = make_run(optimizer={"lr": 1e30}, schedule={"epochs": 3})
    with pytest.raises(TrainingDivergedError, match="training diverged: "):
        train(run, out=tmp_path / "c", data=make_data())
    assert all(bool(torch.isfinite(v).all()) for v in Checkpoint.load(tmp_path / "c").params().values())


def test_no_training_examples_is_an_error(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    data = make_data()
    with pytest.raises(DataError, match="there are no training examples"):
        train(make_run(), out=tmp_path / "c", data=dataclasses.replace(data, train=data.train.take([])))
    assert not (tmp_path / "c").exists()


def test_fewer_examples_than_a_batch_and_no_held_out_ones(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    data = make_data(5)
    data = dataclasses.replace(data, validation=data.train.take([]), test=data.train.take([]))
    checkpoint = train(make_run(), out=tmp_path / "c", data=data)
    assert checkpoint.state.steps == 3
    assert checkpoint.metrics == {}
    assert checkpoint.state.test == {}


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", input=x, a=x[:, :3].argmax(axis=1), b=x[:, 0])
    (tmp_path / "run.toml").write_text(
        'batch_size = 16\n[data]\nsource = "arrays"\npath = "x.npz"\n[model]\ntrunk = "mlp"\n'
        '[tasks.a]\nkind = "classification"\nsize = 3\n[tasks.b]\nkind = "regression"\n[schedule]\nepochs = 2\n'
    )
    (tmp_path / "go.py").write_text(
        "import sys\nfrom nagedge.training.fit import train\n"
        "train('run.toml', out='two', devices=2, accelerator='cpu', strategy='ddp')\n"
    )
    done = subprocess.run(
        [sys.executable, "go.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    one, two = train(tmp_path / "run.toml", out=tmp_path / "one"), Checkpoint.load(tmp_path / "two")
    assert two.finished
    for name, value in one.params().items():
        torch.testing.assert_close(two.params()[name], value, rtol=1e-4, atol=1e-5)
    for epoch_one, epoch_two in zip(one.state.history, two.state.history, strict=True):
        assert epoch_two.losses == pytest.approx(epoch_one.losses, rel=1e-4)


def test_a_batch_that_cannot_be_shared_out_is_refused(
    tmp_path: Path, make_data: MakeData, make_run: MakeRun
) -> None:
    from types import SimpleNamespace

    from nagedge.training.step import set_up

    fabric = SimpleNamespace(device=torch.device("cpu"), world_size=3)
    run = make_run()
    with pytest.raises(ConfigurationError, match="a batch of 16 cannot be shared out among 3 devices"):
        set_up(fabric, run, tmp_path, run.task_specs(), make_data(), None)  # type: ignore[arg-type]


def test_a_run_file_is_trained_where_it_says(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", input=x, a=(x[:, 0] > 0).astype(np.int64))
    (tmp_path / "run.toml").write_text(
        'output = "here"\nbatch_size = 8\n[data]\nsource = "arrays"\npath = "x.npz"\n[model]\ntrunk = "mlp"\n'
        '[tasks.a]\nkind = "classification"\nsize = 2\n[schedule]\nepochs = 1\n'
    )
    checkpoint = train(load_run(tmp_path / "run.toml"))
    assert checkpoint.path == (tmp_path / "here").resolve()


def test_a_forward_pass_in_bfloat16(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    """Near the run in float32 and not the same; what is stored is float32."""
    run = make_run(model={"trunk": "mlp", "hidden": [16, 8]})
    half = train(run, out=tmp_path / "half", data=make_data(), precision="bf16")
    whole = train(run, out=tmp_path / "whole", data=make_data())
    assert {value.dtype for value in half.params().values()} == {torch.float32}
    assert half.state.history[-1].losses["loss"] == pytest.approx(
        whole.state.history[-1].losses["loss"], rel=0.05
    )
    assert any(not torch.equal(value, whole.params()[name]) for name, value in half.params().items())


def test_compiling_is_refused_where_it_would_do_nothing(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    with pytest.raises(ConfigurationError, match="'imtl_g' passes the trunk and the heads separately"):
        train(make_run(balancing={"method": "imtl_g"}), out=tmp_path / "c", data=make_data(), compiled=True)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_gives_the_same_weights(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    run = make_run(model={"trunk": "mlp", "hidden": [16, 8]})
    fast = train(run, out=tmp_path / "fast", data=make_data(), compiled=True)
    for name, value in train(run, out=tmp_path / "plain", data=make_data()).params().items():
        torch.testing.assert_close(fast.params()[name], value, rtol=1e-4, atol=1e-5)
