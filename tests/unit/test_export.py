"""Export: every choice gives a bundle that computes what the model computes; what cannot be exported is named."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import ALARM, CASES, INFER, KIND, LEVEL, TAGS, TRAIN, Case, exported, numpy_batch
from torch import Tensor, nn

import nagedge
from nagedge.bundle import Bundle
from nagedge.errors import BundleError, ConfigurationError, UnsupportedOperatorError
from nagedge.export import export
from nagedge.runtimes import open_inference, open_training
from nagedge.sources import ExportSource, load_source
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.verification import verify

MLP = CASES["mlp"]


def assert_infers_as(bundle: Bundle, model: nn.Module, *inputs: Tensor) -> None:
    """Compare the artifact with the module itself: verification would not see a model changed before its tracing."""
    with torch.no_grad():
        result = model(*inputs)
    names = [task.name for task in bundle.manifest.tasks]
    if not isinstance(result, dict):
        result = dict(zip(names, result if isinstance(result, tuple) else (result,), strict=True))
    fed = dict(
        zip([entry.name for entry in bundle.manifest.inputs], [x.numpy() for x in inputs], strict=True)
    )
    for runtime in ("onnxruntime", "torch"):
        got = open_inference(bundle, runtime=runtime).predict(fed)
        assert list(got) == names
        for name in names:
            np.testing.assert_allclose(got[name], result[name].numpy(), rtol=1e-4, atol=1e-5)


def inputs_of(case: Case) -> tuple[Tensor, ...]:
    return case.example if isinstance(case.example, tuple) else (case.example,)


@pytest.mark.parametrize("name", CASES)
def test_the_artifact_computes_what_the_module_computes(tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    before = {key: value.clone() for key, value in case.model.state_dict().items()}
    bundle = exported(Case(case.model.train(), case.tasks, case.example), tmp_path / "b")
    assert case.model.training, "the given model must stay as it was"
    assert all(torch.equal(value, before[key]) for key, value in case.model.state_dict().items())
    assert_infers_as(bundle, case.model.eval(), *inputs_of(case))
    assert_infers_as(bundle, case.model, *(x[:1] for x in inputs_of(case)))
    assert (bundle.manifest.batch, bundle.manifest.notes) == (None, [])


@pytest.mark.parametrize(
    ("name", "trainable", "parameters"),
    [
        (
            "conv",
            "all",
            {
                "trunk.0.weight",
                "trunk.0.bias",
                "trunk.3.weight",
                "trunk.3.bias",
                "kind.weight",
                "kind.bias",
                "level.weight",
                "level.bias",
            },
        ),
        ("conv", "heads", {"kind.weight", "kind.bias", "level.weight", "level.bias"}),
        ("conv", "bias", {"trunk.0.bias", "trunk.3.bias", "kind.bias", "level.bias"}),
        ("attention", "norm", {f"layer.norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}),
        ("gru", "weight_hh", {"gru.weight_hh_l0"}),
        (
            "conv",
            "lora:2",
            {
                "trunk.0.down.weight",
                "trunk.0.up.weight",
                "kind.weight",
                "kind.bias",
                "level.weight",
                "level.bias",
            },
        ),
    ],
)
def test_every_choice_of_what_to_train(
    tmp_path: Path, name: str, trainable: str, parameters: set[str]
) -> None:
    case = CASES[name]()
    bundle = exported(case, tmp_path / "b", trainable=trainable)
    training = bundle.manifest.training
    assert training is not None
    assert training.trainable == trainable
    assert set(training.parameters) == parameters == set(bundle.momentum())
    assert set(training.decayed) == {p for p in parameters if bundle.params()[p].ndim > 1}
    assert_infers_as(bundle, case.model, *inputs_of(case))
    assert all(c.within_tolerance for c in verify(bundle, steps=3))
    session = open_training(bundle)
    session.step(*numpy_batch(bundle, 4), lr=0.1, momentum=0.9, weight_decay=0.0)
    assert set(session.state().params) == parameters


@pytest.mark.parametrize("policy", ["fold", "freeze", "train"])
def test_every_batch_norm_policy(tmp_path: Path, policy: str) -> None:
    case = CASES["conv"]()
    bundle = exported(case, tmp_path / "b", batch_norm=policy)
    training = bundle.manifest.training
    assert training is not None
    assert training.batch_norm == policy
    assert ("trunk.1.weight" in training.parameters) == (policy != "fold")
    running = ["trunk.1.running_mean", "trunk.1.running_var", "trunk.4.running_mean", "trunk.4.running_var"]
    assert training.buffers == (running if policy == "train" else [])
    assert ("forward_train.json" in bundle.manifest.files) == (policy == "train")
    assert_infers_as(bundle, case.model, *inputs_of(case))
    assert all(c.within_tolerance for c in verify(bundle, steps=3))


def test_a_fixed_batch(tmp_path: Path) -> None:
    case = CASES["conv"]()
    bundle = exported(case, tmp_path / "b", batch=3)
    assert (bundle.manifest.batch, bundle.manifest.notes) == (3, [])
    assert_infers_as(bundle, case.model, case.example[:3])
    assert all(c.within_tolerance for c in verify(bundle, steps=2))


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(x - x.reshape(2, -1, 4).mean(1).repeat_interleave(2, 0))
        return result


def test_a_model_that_depends_on_its_batch_is_fixed_with_a_note(tmp_path: Path) -> None:
    model, example = Pairs().eval(), torch.randn(4, 4)
    bundle = exported(Case(model, (KIND,), example), tmp_path / "b")
    assert bundle.manifest.batch == 4
    (note,) = bundle.manifest.notes
    assert note.startswith(
        "The batch size is fixed to 4: the model's forward pass depends on it. Pad a smaller batch "
    )
    assert_infers_as(bundle, model, example)


def test_several_targets_share_one_bundle(tmp_path: Path) -> None:
    case = MLP()
    bundle = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=[INFER, TRAIN], out=tmp_path / "b"
    )
    assert {name: set(entry.artifacts) for name, entry in bundle.manifest.targets.items()} == {
        INFER: {"infer"}, TRAIN: {"infer", "train_step"},
    }  # fmt: skip
    assert bundle.target(role="train_step")[0] == TRAIN
    assert bundle.target()[0] == INFER


def test_the_manifest_says_what_a_client_needs(tmp_path: Path) -> None:
    tasks = (
        TaskSpec(
            "kind",
            "classification",
            size=3,
            loss=nagedge.LossSpec("cross_entropy", label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5)),
        ),
        TaskSpec("level", "regression", size=1, weight=0.5, unit="degrees"),
    )
    bundle = exported(Case(CASES["conv"]().model, tasks, torch.randn(64, 1, 9, 9) * 3 + 2), tmp_path / "b")
    manifest = bundle.manifest
    (entry,) = manifest.inputs
    assert (entry.name, entry.dtype, entry.shape) == ("x", "float32", ["batch", 1, 9, 9])
    assert (entry.mean, entry.std) == pytest.approx((2, 3), rel=0.1)
    assert [task.spec().name for task in manifest.tasks] == ["kind", "level"]
    assert manifest.tasks[0].spec() == tasks[0]
    assert manifest.tasks[1].spec().unit == "degrees"
    assert [task.target.name for task in manifest.tasks] == ["target.kind", "target.level"]
    assert {"nagedge", "python", "torch", "onnx", "onnxruntime"} <= set(manifest.versions)
    assert manifest.model == "TwoHeads"
    tokens = exported(CASES["attention"](), tmp_path / "tokens").manifest.inputs[0]
    assert (tokens.dtype, tokens.low, tokens.high) == ("int64", 0, 10)


class Four(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 6)
        self.heads = nn.ModuleDict(
            {
                "kind": nn.Linear(6, 3),
                "level": nn.Linear(6, 1),
                "tags": nn.Linear(6, 2),
                "alarm": nn.Linear(6, 1),
            }
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = torch.tanh(self.trunk(x))
        return {name: head(features) for name, head in self.heads.items()}


def test_every_kind_of_task_at_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = exported(Case(Four().eval(), (KIND, LEVEL, TAGS, ALARM), torch.randn(4, 4)), tmp_path / "b")
    assert all(c.within_tolerance for c in verify(bundle, steps=3))
    losses = open_training(bundle).step(*numpy_batch(bundle, 5), lr=0.1, momentum=0.9, weight_decay=0.0)
    assert losses["loss"] == pytest.approx(
        losses["kind"] + 0.5 * losses["level"] + losses["tags"] + losses["alarm"], rel=1e-5
    )


def test_progress_is_reported_and_ends(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    exported(MLP(), tmp_path / "b", progress=lambda *report: seen.append(report))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[0] == ("tracing the forward pass", 0, 4)
    assert seen[-1] == ("written", 4, 4)


# --- refusals -----------------------------------------------------------------------------------------------------


class Warp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        grid = nn.functional.affine_grid(
            torch.eye(2, 3).expand(x.shape[0], 2, 3), list(x.shape), align_corners=False
        )
        return nn.functional.grid_sample(x, grid, align_corners=False)


def test_an_operator_without_a_lowering_is_named_with_module_and_target(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), Warp()), nn.Flatten(), nn.Linear(8, 3)
    ).eval()
    with pytest.raises(UnsupportedOperatorError) as caught:
        exported(Case(model, (KIND,), torch.randn(2, 1, 4, 4)), tmp_path / "b")
    assert str(caught.value).startswith(
        f"backend 'onnxruntime' cannot lower 'aten.grid_sampler_2d' (module '1.1') for target {TRAIN!r}"
    )
    assert str(caught.value).endswith(
        "Replace it by operators of torch.nn in common use, or freeze the part of the model before it."
    )
    assert not (tmp_path / "b").exists()


def call(tmp_path: Path, **changes: Any) -> Bundle:
    case = MLP()
    given: dict[str, Any] = {
        "model": case.model, "tasks": case.tasks, "example_input": case.example, "targets": TRAIN,
        "out": tmp_path / "b",
    }  # fmt: skip
    given |= changes
    return export(given.pop("model"), **given)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"targets": "any-any-onnxruntime-fp32-trian"},
            "unknown target 'any-any-onnxruntime-fp32-trian'; `nagedge targets ls` lists the ",
        ),
        ({"targets": "any-any-onnxruntime-fp32-trian"}, f"Did you mean '{TRAIN}'?"),
        ({"targets": []}, "no target was given: name at least one (see `nagedge targets ls`)."),
        ({"targets": [TRAIN, TRAIN]}, f"target {TRAIN!r} was given 2 times: name each once."),
        ({"targets": "none.toml"}, "target file none.toml: cannot be read"),
        ({"tasks": None}, "export of a Sequential needs tasks=: see nagedge.TaskSpec."),
        ({"example_input": None}, "export of a Sequential needs example_input=: see nagedge.TaskSpec."),
        ({"tasks": []}, "tasks must hold one nagedge.TaskSpec for each output of the model."),
        ({"tasks": ["kind"]}, "tasks must hold one nagedge.TaskSpec for each output of the model."),
        ({"tasks": [KIND, KIND]}, "task name 'kind' is used 2 times: names must differ."),
        (
            {"tasks": [TaskSpec("loss", "classification", size=3)]},
            "task name 'loss' is taken by the total loss of all tasks: choose another.",
        ),
        (
            {"tasks": [TaskSpec("input", "classification", size=3)]},
            "task 'input' has the name of an input of the model: rename the task.",
        ),
        (
            {"tasks": [TaskSpec("kind", "classification", size=3, loss="mse")]},
            "task 'kind': a classification task has no loss 'mse'",
        ),
        ({"batch": 0}, "batch is 0, expected a size >= 1."),
        ({"batch_norm": "thaw"}, "unknown BatchNorm policy 'thaw'; expected one of fold, freeze, train."),
        ({"trainable": "nothing"}, "trainable 'nothing' matches no parameter that the model reads."),
        ({"trainable": "lora:x"}, "trainable 'lora:x': expected 'lora:RANK' with a rank >= 1"),
        (
            {"example_input": torch.randn(4, 6)},
            "Sequential fails on its example_input: mat1 and mat2 shapes cannot be multiplied (4x6 and 5x8).",
        ),
        ({"example_input": torch.tensor(1.0)}, "example_input 'input' has shape (): expected a batch"),
        (
            {"model": nn.Linear(5, 3).half()},
            "model tensor 'weight' is float16, expected float32: call model.float()",
        ),
        (
            {"model": "package.module:factory"},
            "tasks and example_input belong to a torch.nn.Module; a checkpoint and a factory bring their own.",
        ),
    ],
)
def test_a_wrong_argument_is_refused_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        call(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


class Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.head, self.name = nn.Linear(4, 3), name
        self.register_parameter(name, nn.Parameter(torch.ones(4)))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(x * getattr(self, self.name))
        return result


@pytest.mark.parametrize(
    ("name", "trainable", "says"),
    [
        ("x", "all", "model tensor 'x' has the name of an input: rename it, or what has its name."),
        ("kind", "all", "model tensor 'kind' has the name of a task"),
        ("lr", "heads", "model tensor 'lr' has the name of an input of the training step"),
        ("loss", "heads", "model tensor 'loss' has the name of an output of the training step"),
        ("lr", "all", ""),
    ],
)
def test_names_that_would_be_twice_in_an_artifact(
    tmp_path: Path, name: str, trainable: str, says: str
) -> None:
    case = Case(Named(name).eval(), (KIND,), torch.randn(4, 4))
    if not says:
        assert all(
            c.within_tolerance for c in verify(exported(case, tmp_path / "b", trainable=trainable), steps=2)
        )
        return
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        exported(case, tmp_path / "b", trainable=trainable)


def test_an_input_may_have_the_name_of_a_setting(tmp_path: Path) -> None:
    class Input(nn.Linear):
        def forward(self, lr: Tensor) -> Tensor:
            return super().forward(lr)

    bundle = exported(Case(Input(4, 3).eval(), (KIND,), torch.randn(4, 4)), tmp_path / "b")
    assert bundle.manifest.inputs[0].name == "lr_input"
    assert all(c.within_tolerance for c in verify(bundle, steps=2))


# --- sources ------------------------------------------------------------------------------------------------------

FACTORIES = """
import torch
from torch import nn
import nagedge
from nagedge.sources import ExportSource

TASKS = [nagedge.TaskSpec("kind", "classification", size=3)]

def make():
    torch.manual_seed(0)
    return nn.Linear(4, 3), TASKS, torch.randn(4, 4)

def source():
    model, tasks, example = make()
    signal = nagedge.TensorSpec("signal", "float32", ("batch", 4), "volt")
    return ExportSource(model, tuple(tasks), example, "mine", input=signal, lr=0.5)

def pair():
    return nn.Linear(4, 3), TASKS

def text():
    return "model", TASKS, None

def fails():
    raise RuntimeError("no weights here")

def needs(argument):
    return argument

number = 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"factories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_beside_the_user_is_a_source(module: str, tmp_path: Path) -> None:
    path = list(sys.path)
    bundle = export(f"{module}:make", targets=TRAIN, out=tmp_path / "b")
    assert bundle.manifest.model == "Linear"
    assert sys.path == path


def test_a_factory_may_say_more(module: str, tmp_path: Path) -> None:
    manifest = export(f"{module}:source", targets=TRAIN, out=tmp_path / "b").manifest
    assert (manifest.model, manifest.inputs[0].name, manifest.inputs[0].unit) == ("mine", "signal", "volt")
    assert manifest.training is not None
    assert manifest.training.lr == 0.5


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        ("pair", "returned tuple, expected (model, tasks, example_input)."),
        ("text", "returned tuple, expected (model, tasks, example_input)."),
        (
            "fails",
            "cannot be used: RuntimeError: no weights here. Expected 'package.module:factory'",
        ),
        ("needs", "cannot be used: TypeError: "),
        ("number", "cannot be used: TypeError: 'int' object is not callable"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_a_factory_that_is_none_is_refused(module: str, tmp_path: Path, attribute: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        export(f"{module}:{attribute}", targets=TRAIN, out=tmp_path / "b")
    assert str(caught.value).startswith(f"source '{module}:{attribute}' ")
    assert says in str(caught.value)


def test_a_source_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="source 'no_such_module_here:make' cannot be used: ModuleNotFoundError"
    ):
        load_source("no_such_module_here:make")
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            BundleError,
            match=r"is neither a checkpoint folder \(no checkpoint\.json\) nor 'package\.module:factory'",
        ):
            load_source(source)


def test_a_source_gives_its_input_its_name() -> None:
    model = nn.Linear(4, 3)
    source = ExportSource(
        model, (KIND,), torch.randn(2, 4), "mine", input=TensorSpec("signal", "float32", ("batch", 4))
    )
    assert source.lr > 0
    assert source.momentum == 0.9


def test_the_public_names_are_these() -> None:
    assert nagedge.export is export
    assert nagedge.verify is verify
