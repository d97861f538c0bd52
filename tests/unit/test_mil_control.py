"""Blocks, lists, states and classifiers of ML Programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_harness import normal, quiet, saved

from nagedge.errors import BundleError
from nagedge.runtimes.mil_program import load_program
from nagedge.runtimes.mil_program.ops import lists


def mb() -> Any:
    from coremltools.converters.mil.mil import Builder

    return Builder


def evaluated(build: Any, fed: dict[str, Any], folder: Path, opset: int = 16) -> list[Any]:
    return list(load_program(saved(build, fed, folder, opset=opset)).run(fed).values())


@pytest.mark.parametrize("value", [3.0, -3.0])
def test_cond_takes_one_branch(value: float, tmp_path: Path) -> None:
    def build(x: Any, y: Any) -> Any:
        positive = mb().greater(x=mb().reduce_sum(x=x), y=np.float32(0))
        outside = mb().mul(x=y, y=np.float32(2))  # used by one branch only: it must live until then
        return mb().cond(
            pred=positive,
            _true_fn=lambda: (mb().add(x=outside, y=np.float32(1)), mb().identity(x=x)),
            _false_fn=lambda: (mb().sub(x=y, y=np.float32(1)), mb().square(x=x)),
        )

    x, y = np.float32([value, 1.0]), normal(4)
    first, second = evaluated(build, {"x": x, "y": y}, tmp_path)
    np.testing.assert_allclose(first, 2 * y + 1 if value > 0 else y - 1)
    np.testing.assert_allclose(second, x if value > 0 else x**2)


def test_while_loop_carries_values(tmp_path: Path) -> None:
    def build(x: Any, limit: Any) -> Any:
        step = mb().real_div(x=x, y=np.float32(4))
        return mb().while_loop(
            _cond=lambda i, total: mb().less(x=mb().reduce_sum(x=i), y=mb().reduce_sum(x=limit)),
            _body=lambda i, total: (mb().add(x=i, y=np.int32([1])), mb().add(x=total, y=step)),
            loop_vars=(mb().fill(shape=[1], value=np.int32(0)), mb().mul(x=x, y=np.float32(0))),
        )

    x = np.float32([4.0, 8.0])
    for rounds in (0, 1, 7):
        count, total = evaluated(build, {"x": x, "limit": np.int32([rounds])}, tmp_path / str(rounds))
        assert count.tolist() == [rounds]
        np.testing.assert_allclose(total, rounds * x / 4)


def test_loops_may_be_nested(tmp_path: Path) -> None:
    def count_to(limit: int, body: Any, start: Any) -> Any:
        _, result = mb().while_loop(
            _cond=lambda i, value: mb().less(x=i, y=np.int32(limit)),
            _body=lambda i, value: (mb().add(x=i, y=np.int32(1)), body(value)),
            loop_vars=(np.int32(0), start),
        )
        return result

    def build(x: Any) -> Any:
        return count_to(3, lambda outer: count_to(2, lambda inner: mb().add(x=inner, y=x), outer), x)

    x = normal(3)
    (got,) = evaluated(build, {"x": x}, tmp_path)
    np.testing.assert_allclose(got, 7 * x, rtol=1e-6)


def test_lists_grow_and_are_gathered(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        made = mb().make_list(init_length=1, dynamic_length=True, elem_shape=(2,), dtype="fp32")
        one = mb().list_write(ls=made, index=2, value=x)
        two = mb().list_scatter(
            ls=one, indices=[0, 1], value=mb().stack(values=[x, mb().square(x=x)], axis=0)
        )
        length = mb().expand_dims(x=mb().list_length(ls=two), axes=[0])
        return mb().list_gather(ls=two, indices=[2, 1]), mb().list_read(ls=two, index=0), length

    x = normal(2)
    gathered, first, length = evaluated(build, {"x": x}, tmp_path)
    np.testing.assert_allclose(gathered, np.stack([x, x**2]))
    np.testing.assert_allclose(first, x)
    assert length.tolist() == [3]


def test_an_element_that_was_never_written_is_an_error() -> None:
    with pytest.raises(IndexError, match="element 1 was never written, the list has 1"):
        lists.list_read([torch.zeros(1)], 1)
    with pytest.raises(ValueError, match="a list of 10000000 elements"):
        lists.list_write([], 9_999_999, torch.zeros(1))


def test_states_live_from_run_to_run(tmp_path: Path) -> None:
    def build(x: Any, total: Any) -> Any:
        before = mb().read_state(input=total)
        after = mb().coreml_update_state(
            state=total, value=mb().add(x=before, y=mb().cast(x=x, dtype="fp16"))
        )
        return mb().mul(x=after, y=np.float16(2)), before

    x = np.float32([1.0, 2.0])
    path = saved(build, {"x": x}, tmp_path, opset=18, states={"total": np.zeros(2, np.float16)})
    program = load_program(path)
    assert list(program.states) == ["total"]
    state = program.initial_state()
    for i in range(1, 4):
        twice, before = program.run({"x": x}, state).values()
        np.testing.assert_allclose(twice, 2 * i * x)
        np.testing.assert_allclose(before, (i - 1) * x)
    np.testing.assert_allclose(state["total"].numpy(), 3 * x)
    twice, _ = program.run({"x": x}).values()  # without a state every run is the first
    np.testing.assert_allclose(twice, 2 * x)


@pytest.mark.parametrize("classes", [["cat", "dog", "fish"], [7, 8, 9]])
def test_a_classifier_names_the_likeliest(classes: list[Any], tmp_path: Path) -> None:
    with quiet():
        import coremltools as ct

        @mb().program(input_specs=[mb().TensorSpec(shape=(1, 3))], opset_version=ct.target.iOS16)
        def program(x: Any) -> Any:
            return mb().softmax(x=x, name="p")

        model = ct.convert(
            program, convert_to="mlprogram", skip_model_load=True, minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32, classifier_config=ct.ClassifierConfig(classes),
        )  # fmt: skip
        model.save(str(tmp_path / "c.mlpackage"))
    x = np.float32([[0.5, 2.0, -1.0]])
    outputs = load_program(tmp_path / "c.mlpackage").run({"x": x})
    expected = np.exp(x[0]) / np.exp(x[0]).sum()
    assert outputs["classLabel"] == classes[1]
    assert list(outputs["classLabel_probs"]) == classes
    np.testing.assert_allclose(list(outputs["classLabel_probs"].values()), expected, rtol=1e-6)


def test_one_of_several_functions_can_be_chosen(tmp_path: Path) -> None:
    with quiet():
        import coremltools as ct

        for name, factor in (("a", 2.0), ("b", 3.0)):

            def build(x: Any, factor: float = factor) -> Any:
                return mb().mul(x=x, y=np.float32(factor))

            (tmp_path / name).mkdir()
            saved(build, {"x": np.zeros(2, np.float32)}, tmp_path / name, opset=18)
        both = ct.utils.MultiFunctionDescriptor()
        both.add_function(str(tmp_path / "a" / "program.mlpackage"), "main", "double")
        both.add_function(str(tmp_path / "b" / "program.mlpackage"), "main", "triple")
        both.default_function_name = "double"
        ct.utils.save_multifunction(both, str(tmp_path / "both.mlpackage"))
    x = {"x": np.float32([1, 2])}
    (doubled,) = load_program(tmp_path / "both.mlpackage").run(x).values()
    (tripled,) = load_program(tmp_path / "both.mlpackage", "triple").run(x).values()
    assert (doubled.tolist(), tripled.tolist()) == ([2, 4], [3, 6])
    with pytest.raises(BundleError, match="has no function 'other'; it has double, triple"):
        load_program(tmp_path / "both.mlpackage", "other")


COVERED = {
    "cond", "while_loop", "make_list", "list_write", "list_scatter", "list_gather", "list_read", "list_length",
    "read_state", "write_state", "classify", "const",
}  # fmt: skip
"""Ops that the programs of this file hold; tests/unit/test_mil_program.py counts them as tested."""
