"""Runtimes: the exported step on the stock ONNX Runtime against PyTorch, its state, its buffers and its refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models_for_tests import CASES, INFER, KIND, TRAIN, Case, exported, numpy_batch
from runtime_harness import SETTINGS, Factory, arrays, assert_close, bundle_factory
from torch import Tensor, nn

from nagedge.bundle import Bundle
from nagedge.errors import BundleError, ConfigurationError, DataError
from nagedge.export import export
from nagedge.runtimes import open_inference, open_training
from nagedge.targets import Target, load_target


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return bundle_factory(tmp_path_factory.mktemp("bundles"), TRAIN)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in CASES]
    + [
        ("conv", {"batch_norm": "train"}),
        ("conv", {"batch_norm": "freeze", "trainable": "norm"}),
        ("attention", {"trainable": "lora:2"}),
    ],
    ids=str,
)
def test_the_stock_runtime_steps_as_torch_does(bundles: Factory, name: str, options: dict[str, Any]) -> None:
    bundle = bundles(name, **options)
    runtime, reference = open_training(bundle), open_training(bundle, runtime="torch")
    before = arrays(runtime.state())
    for step in range(4):
        inputs, targets = numpy_batch(bundle, (5, 3)[step % 2], seed=step)
        weight = (
            np.random.default_rng(step).uniform(0.2, 2, len(next(iter(inputs.values())))).astype(np.float32)
        )
        got = runtime.step(inputs, targets, weight, **SETTINGS)
        expected = reference.step(inputs, targets, weight, **SETTINGS)
        assert list(got) == ["loss", *(task.name for task in bundle.manifest.tasks)]
        assert_close(got, expected)
        assert_close(arrays(runtime.state()), arrays(reference.state()), atol=1e-5)
    changed = arrays(runtime.state())
    assert all(not np.array_equal(before[key], changed[key]) for key in before)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_saved_state_goes_on_to_the_same_bits(bundles: Factory, runtime: str) -> None:
    bundle = bundles("conv", batch_norm="train")
    batches = [numpy_batch(bundle, 4, seed=i) for i in range(6)]
    whole = open_training(bundle, runtime=runtime)
    losses = [whole.step(*batch, **SETTINGS) for batch in batches]
    first = open_training(bundle, runtime=runtime)
    for batch in batches[:3]:
        first.step(*batch, **SETTINGS)
    saved = first.state()
    kept = {key: value.copy() for key, value in arrays(saved).items()}
    first.step(*batches[5], **SETTINGS)  # what goes on in the old session leaves the saved state alone
    second = open_training(bundle, runtime=runtime, state=saved)
    assert [second.step(*batch, **SETTINGS) for batch in batches[3:]] == losses[3:]
    for key, value in arrays(second.state()).items():
        assert np.array_equal(value, arrays(whole.state())[key]), key
        assert np.array_equal(arrays(saved)[key], kept[key]), (
            "a session must not write into the caller's state"
        )


def test_two_sets_of_buffers_change_places_and_nothing_is_copied(bundles: Factory) -> None:
    session: Any = open_training(bundles("conv", batch_norm="train"))
    batch = numpy_batch(bundles("conv", batch_norm="train"), 4)

    def addresses() -> dict[str, int]:
        return {key: value.data_ptr() for key, value in session._now.items()}

    seen = [addresses()]
    for _ in range(4):
        session.step(*batch, **SETTINGS)
        seen.append(addresses())
    assert seen[0] == seen[2] == seen[4]
    assert seen[1] == seen[3]
    assert not set(seen[0].values()) & set(seen[1].values())


def test_inference_equals_torch_before_and_with_learnt_parameters(bundles: Factory) -> None:
    bundle = bundles("conv", batch_norm="train")
    session = open_training(bundle)
    inputs, targets = numpy_batch(bundle, 5)
    plain = open_inference(bundle).predict(inputs)
    assert_close(plain, open_inference(bundle, runtime="torch").predict(inputs), atol=1e-5)
    for _ in range(5):
        session.step(inputs, targets, **SETTINGS)
    learnt = session.state().params | session.state().buffers
    new = open_inference(bundle, params=learnt).predict(inputs)
    assert_close(new, open_inference(bundle, runtime="torch", params=learnt).predict(inputs), atol=1e-5)
    assert max(np.abs(new[task] - plain[task]).max() for task in new) > 0.01


# --- weights of rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
@pytest.mark.parametrize("name", ["conv", "attention", "two_inputs"])
def test_a_row_of_weight_zero_does_not_count(bundles: Factory, runtime: str, name: str) -> None:
    bundle = bundles(name)
    inputs, targets = numpy_batch(bundle, 6)
    rows = [0, 2, 3, 5]
    weight = np.asarray([0.5, 0, 1.5, 1, 0, 2], np.float32)
    full, part = open_training(bundle, runtime=runtime), open_training(bundle, runtime=runtime)
    a = full.step(inputs, targets, weight, **SETTINGS)
    b = part.step(
        {k: v[rows] for k, v in inputs.items()},
        {k: v[rows] for k, v in targets.items()},
        weight[rows],
        **SETTINGS,
    )
    assert_close(a, b, rtol=1e-5)
    assert_close(arrays(full.state()), arrays(part.state()), rtol=1e-4, atol=1e-6)


def test_no_weights_are_ones_and_no_weight_at_all_trains_nothing(bundles: Factory) -> None:
    bundle = bundles("mlp")
    inputs, targets = numpy_batch(bundle, 4)
    one, two, none = open_training(bundle), open_training(bundle), open_training(bundle)
    assert one.step(inputs, targets, **SETTINGS) == two.step(
        inputs, targets, np.ones(4, np.float32), **SETTINGS
    )
    start = arrays(none.state())
    losses = none.step(inputs, targets, np.zeros(4, np.float32), lr=0.1, momentum=0.9, weight_decay=0.0)
    assert set(losses.values()) == {0.0}
    assert all(np.array_equal(value, start[key]) for key, value in arrays(none.state()).items())


def test_a_batch_larger_than_was_planned_gets_its_own_arena_and_goes_on(bundles: Factory) -> None:
    bundle = bundles("conv")
    (entry,) = bundle.manifest.targets.values()
    assert entry.planned_rows is not None
    session: Any = open_training(bundle)
    reference, first = open_training(bundle, runtime="torch"), session._session
    for step, times in enumerate((1, 2, 3, 3, 1)):
        batch = numpy_batch(bundle, times * entry.planned_rows, seed=step)
        assert_close(session.step(*batch, **SETTINGS), reference.step(*batch, **SETTINGS))
        assert (session._session is first) == (step < 2)
    assert_close(arrays(session.state()), arrays(reference.state()), atol=1e-5)


def test_a_fixed_batch_takes_a_part_filled_up_with_rows_of_weight_zero(bundles: Factory) -> None:
    fixed, free = bundles("conv", batch=6), bundles("conv")
    assert fixed.manifest.batch == 6
    inputs, targets = numpy_batch(free, 4)
    padded = np.resize(np.arange(4), 6)
    weight = np.asarray([1, 1, 1, 1, 0, 0], np.float32)
    a, b = open_training(fixed), open_training(free)
    got = a.step(
        {k: v[padded] for k, v in inputs.items()},
        {k: v[padded] for k, v in targets.items()},
        weight,
        **SETTINGS,
    )
    assert_close(got, b.step(inputs, targets, **SETTINGS), rtol=1e-5)
    assert_close(arrays(a.state()), arrays(b.state()))
    with pytest.raises(
        DataError,
        match="the batch has 4 rows, this bundle takes exactly 6: fill it up with rows of sample_weight 0",
    ):
        a.step(inputs, targets, **SETTINGS)


# --- what is in the step ------------------------------------------------------------------------------------------


def graphs(bundle: Bundle, target: str = TRAIN) -> dict[str, onnx.ModelProto]:
    return {
        role: onnx.load(bundle.file(path)) for role, path in bundle.manifest.targets[target].artifacts.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_every_operator_is_of_the_standard_domain(bundles: Factory, name: str) -> None:
    for model in graphs(bundles(name)).values():
        assert {node.domain for node in model.graph.node} == {""}
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
        assert not model.functions
        onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(("opset", "ir"), [(18, 8), (19, 9), (21, 10), (22, 10)])
def test_the_opset_is_the_targets(tmp_path: Path, opset: int, ir: int) -> None:
    values = {**load_target(TRAIN).__dict__, "opset": opset, "name": "mine"}
    case = CASES["mlp"]()
    bundle = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=Target(**values), out=tmp_path / "b"
    )
    assert bundle.manifest.targets["mine"].opset == opset
    for model in graphs(bundle, "mine").values():
        assert (model.opset_import[0].version, model.ir_version) == (opset, ir)
    inputs, targets = numpy_batch(bundle, 3)
    a, b = open_training(bundle), open_training(bundle, runtime="torch")
    assert_close(a.step(inputs, targets, **SETTINGS), b.step(inputs, targets, **SETTINGS))


def test_frozen_parameters_are_constants_without_gradients(bundles: Factory) -> None:
    heads, everything = (graphs(bundles("conv", trainable=what))["train_step"] for what in ("heads", "all"))
    inputs = {value.name for value in heads.graph.input}
    constants = {tensor.name for tensor in heads.graph.initializer}
    assert {"trunk.0.weight", "trunk.0.bias", "trunk.3.weight", "trunk.3.bias"} <= constants
    assert not {name for name in inputs | {v.name for v in heads.graph.output} if "trunk" in name}
    assert {
        "params.kind.weight",
        "momentum.kind.weight",
        "lr",
        "momentum",
        "weight_decay",
        "sample_weight",
    } <= inputs
    convolutions = [node for node in heads.graph.node if "Conv" in node.op_type]
    assert len(convolutions) == 2, "the forward ones only"
    assert len(heads.graph.node) < len(everything.graph.node) - 20


def test_learning_rate_momentum_and_weight_decay_are_chosen_at_every_step(bundles: Factory) -> None:
    bundle = bundles("mlp")
    inputs, targets = numpy_batch(bundle, 4)
    session: Any = open_training(bundle)
    p0 = session.state().params
    session.step(inputs, targets, lr=0.0, momentum=0.0, weight_decay=0.0)
    gradient = session.state().momentum  # b' = 0 * b + g
    assert all(np.array_equal(value, p0[key]) for key, value in session.state().params.items())

    def after(**settings: float) -> dict[str, Any]:
        fresh = open_training(bundle)
        fresh.step(inputs, targets, **settings)
        return fresh.state().params

    for key in p0:
        decay = 0.3 * p0[key] if p0[key].ndim > 1 else 0.0
        d = gradient[key] + decay
        expected = p0[key] - 0.2 * (d + 0.7 * d)
        np.testing.assert_allclose(
            after(lr=0.2, momentum=0.7, weight_decay=0.3)[key], expected, rtol=1e-5, atol=1e-7
        )


def test_a_parameter_that_the_loss_does_not_depend_on_decays_in_both_runtimes(tmp_path: Path) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.seen(x).detach())
            return result

    torch.manual_seed(0)
    bundle = exported(Case(Detached().eval(), (KIND,), torch.randn(4, 4)), tmp_path / "b")
    inputs, targets = numpy_batch(bundle, 4)
    a, b = open_training(bundle), open_training(bundle, runtime="torch")
    for _ in range(3):
        assert_close(a.step(inputs, targets, **SETTINGS), b.step(inputs, targets, **SETTINGS))
    assert_close(arrays(a.state()), arrays(b.state()))


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda i, t: i.pop("image"), "input 'image' is missing; got sensors."),
        (lambda i, t: t.clear(), "target 'kind' is missing; got none."),
        (
            lambda i, t: i.update(image=i["image"][:, :, :5]),
            "input 'image' has shape [4, 1, 5, 6], expected [batch, 1, 6, 6]: prepare it as",
        ),
        (
            lambda i, t: i.update(image=i["image"][0]),
            "input 'image' has shape [1, 6, 6], expected [batch, 1, 6, 6]",
        ),
        (
            lambda i, t: i.update(sensors=i["sensors"][:3]),
            "input 'sensors' has 3 rows, the first input has 4: give one a row",
        ),
        (lambda i, t: t.update(kind=t["kind"][:2]), "target 'kind' has 2 rows, the first input has 4"),
        (
            lambda i, t: t.update(kind=t["kind"] + 0.5),
            "target 'kind' has dtype float64, expected int64: convert it first.",
        ),
        (lambda i, t: t.update(kind=np.asarray(["a"] * 4)), "target 'kind' has dtype <U1, expected int64"),
        (
            lambda i, t: i.update(sensors=np.full((4, 3), None)),
            "input 'sensors' has dtype object, expected float32",
        ),
        (
            lambda i, t: i.update(sensors=i["sensors"] + 0j),
            "input 'sensors' has dtype complex64, expected float32",
        ),
        (
            lambda i, t: (i.update({k: v[:0] for k, v in i.items()}), t.update(kind=t["kind"][:0])),
            "the batch has no row",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(bundles: Factory, runtime: str, change: Any, says: str) -> None:
    bundle = bundles("two_inputs")
    session = open_training(bundle, runtime=runtime)
    inputs, targets = numpy_batch(bundle, 4)
    before = arrays(session.state())
    change(inputs, targets)
    with pytest.raises(DataError, match=re.escape(says)):
        session.step(inputs, targets, **SETTINGS)
    assert all(np.array_equal(value, before[key]) for key, value in arrays(session.state()).items())


@pytest.mark.parametrize(
    "weight",
    [
        np.ones(3),
        np.ones((4, 1)),
        np.asarray([1, -1, 1, 1]),
        np.asarray([1, np.nan, 1, 1]),
        np.asarray([1, np.inf, 1, 1]),
    ],
)
def test_weights_that_are_none_are_refused(bundles: Factory, weight: Any) -> None:
    bundle = bundles("mlp")
    with pytest.raises(DataError, match="sample_weight"):
        open_training(bundle).step(*numpy_batch(bundle, 4), weight, **SETTINGS)


def test_inputs_in_a_kindred_dtype_are_converted(bundles: Factory) -> None:
    bundle = bundles("mlp")
    inputs, _ = numpy_batch(bundle, 4)
    expected = open_inference(bundle).predict(inputs)
    whole = {k: np.round(v).astype(np.uint8) for k, v in inputs.items()}
    assert_close(
        open_inference(bundle).predict({k: v.astype(np.float64) for k, v in inputs.items()}), expected
    )
    assert open_inference(bundle).predict(whole)["kind"].dtype == np.float32
    column = {"kind": np.zeros((4, 1), np.int32)}
    assert open_training(bundle).step(inputs, column, **SETTINGS) == open_training(bundle).step(
        inputs, {"kind": np.zeros(4, np.int64)}, **SETTINGS
    )


def test_an_unknown_runtime_or_target_and_a_bundle_without_training(bundles: Factory, tmp_path: Path) -> None:
    bundle = bundles("mlp")
    with pytest.raises(
        ConfigurationError,
        match=r"unknown runtime 'onnx'; expected one of onnxruntime, .*torch\. Did you mean 'onnxruntime'",
    ):
        open_training(bundle, runtime="onnx")
    with pytest.raises(ConfigurationError, match="has no target 'mine'"):
        open_inference(bundle, "mine")
    case = CASES["mlp"]()
    plain = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=INFER, out=tmp_path / "b"
    )
    assert plain.manifest.training is None
    assert "momentum.safetensors" not in plain.manifest.files
    for name in (None, INFER):
        for runtime in ("onnxruntime", "torch"):
            with pytest.raises(
                ConfigurationError, match=r"has no 'train_step' artifact.*whose name ends in -train"
            ):
                open_training(plain, name, runtime=runtime)


def test_an_artifact_that_the_runtime_refuses_is_one_error(tmp_path: Path) -> None:
    from nagedge.runtimes.onnxruntime import load_session

    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(
        BundleError,
        match=r"ONNX Runtime [\d.]+ refuses '.*model\.onnx': .* Export again, or update ONNX Runtime\.",
    ):
        load_session(path)
