"""The forward graph as JSON: the same graph after a round trip, and nothing but operators in it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import CASES, Case
from torch import Tensor

from nagedge.errors import BundleError
from nagedge.graphs.forward import ForwardGraph, trace_forward
from nagedge.graphs.serialization import forward_from_json, forward_to_json


def traced(case: Case, **options: Any) -> tuple[ForwardGraph, dict[str, Tensor]]:
    forward = trace_forward(case.model, case.example, case.tasks, **options)
    state = {**dict(case.model.named_parameters()), **dict(case.model.named_buffers()), **forward.constants}
    return forward, state


def examples(case: Case, rows: int) -> list[Tensor]:
    first = case.example if isinstance(case.example, tuple) else (case.example,)
    return [torch.cat([x, x.flip(0)])[:rows] for x in first]


def outputs_and_gradients(
    forward: ForwardGraph, state: dict[str, Tensor], inputs: list[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    leaves = {k: v.detach().clone().requires_grad_(v.requires_grad) for k, v in state.items()}
    outputs, _ = forward(leaves, inputs)
    sum((o.sin().sum() for o in outputs.values()), torch.zeros(())).backward()
    return outputs, {k: v.grad for k, v in leaves.items() if v.grad is not None}


@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_gives_the_same_outputs_and_gradients_at_two_batch_sizes(name: str) -> None:
    case = CASES[name]()
    forward, state = traced(case)
    again = forward_from_json(forward_to_json(forward), where="here")
    assert (again.state_names, again.inputs, again.outputs) == (
        forward.state_names,
        forward.inputs,
        forward.outputs,
    )
    assert again.batch is None
    for rows in (4, 7):
        inputs = examples(case, rows)
        expected, expected_gradients = outputs_and_gradients(forward, state, inputs)
        got, got_gradients = outputs_and_gradients(again, state, inputs)
        assert got.keys() == expected.keys()
        assert got_gradients.keys() == expected_gradients.keys() != set()
        for key in expected:
            assert len(got[key]) == rows
            assert torch.equal(got[key], expected[key])
        for key in expected_gradients:
            assert torch.equal(got_gradients[key], expected_gradients[key])


def test_a_second_round_trip_changes_nothing() -> None:
    text = forward_to_json(traced(CASES["conv"]())[0])
    once = forward_to_json(forward_from_json(text, where="here"))
    assert forward_to_json(forward_from_json(once, where="here")) == once


def test_updated_buffers_and_a_fixed_batch_survive() -> None:
    case = CASES["conv"]()
    forward, state = traced(case, batch=4, batch_norm_training=True)
    again = forward_from_json(forward_to_json(forward), where="here")
    assert again.batch == 4
    assert again.updated_buffers == forward.updated_buffers
    assert "trunk.1.running_var" in again.updated_buffers
    _, expected = forward(state, [case.example])
    _, got = again(state, [case.example])
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@functools.cache
def document_text() -> str:
    return forward_to_json(traced(CASES["mlp"]())[0])


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(document_text())
    return loaded


def first_call(change: Callable[[list[Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda d: change(d["nodes"][0])


def rename(target: str) -> Callable[[dict[str, Any]], None]:
    return first_call(lambda node: node.__setitem__(1, target))


@pytest.mark.parametrize(
    "target",
    [
        "aten.from_file.default", "aten.add_.Tensor", "aten.copy_.default", "aten.relu_.default",
        "aten.set_.source_Tensor",
        "os.system", "posix.system", "builtins.eval", "operator.attrgetter", "torch.load", "torch.sym_float.__class__",
        "aten.add.__class__", "aten.__class__.default", "aten.add", "aten..default", "prims.device_put.default",
        "aten.normal.float_float", "",
    ],
)  # fmt: skip
def test_anything_but_a_functional_operator_is_refused(target: str) -> None:
    changed = document()
    rename(target)(changed)
    with pytest.raises(BundleError, match="not an operator that a forward graph may use") as caught:
        forward_from_json(json.dumps(changed), where="bundle 'b': forward.json")
    assert str(caught.value).startswith(f"bundle 'b': forward.json calls {target!r}, ")
    assert str(caught.value).endswith("was not written by this program; do not use it.")


def test_names_in_the_document_never_become_python_source(tmp_path: Path) -> None:
    # fx writes the names of placeholders and of keyword arguments into the source of `forward`, which it runs.
    witness = tmp_path / "witness"
    code = f"__import__('pathlib').Path({str(witness)!r}).touch()"
    clean = document()

    injected = json.loads(json.dumps(clean))
    last = injected["placeholders"][-1]
    injected["placeholders"][-1] = f"x={code}"
    text = json.dumps(injected).replace(json.dumps({"node": last}), json.dumps({"node": f"x={code}"}))
    forward_from_json(text, where="here")  # loads: the name stands for an argument, whatever it is
    assert not witness.exists()

    keyword = json.loads(json.dumps(clean))
    keyword["nodes"][-1][3] = {f"beta={code} or 1, alpha": 1}
    with pytest.raises(BundleError, match=r"with an argument .* which it does not have"):
        forward_from_json(json.dumps(keyword), where="here")

    named = json.loads(json.dumps(clean))
    old = named["nodes"][-1][0]
    named["nodes"][-1][0] = f"x; {code}"
    text = json.dumps(named).replace(json.dumps({"node": old}), json.dumps({"node": f"x; {code}"}))
    forward_from_json(text, where="here")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: d.pop("nodes"), "KeyError: 'nodes'"),
        (lambda d: d.pop("format"), "KeyError: 'format'"),
        (lambda d: d["nodes"][0].pop(), "ValueError"),
        (lambda d: d["nodes"][0][2].__setitem__(0, {"node": "nobody"}), "KeyError: 'nobody'"),
        (lambda d: d["nodes"][0][2].__setitem__(0, {"code": "1"}), "unknown argument kind 'code'"),
        (lambda d: d["nodes"][0][2].__setitem__(0, {"dtype": "load"}), "'load' is no dtype"),
        (lambda d: d["nodes"][0][2].__setitem__(0, {"dtype": "nonsense"}), "AttributeError"),
        (lambda d: d["nodes"][0][2].__setitem__(0, {}), "ValueError"),
        (lambda d: d["placeholders"].pop(), "ValueError: zip()"),
        (lambda d: d["nodes"][0].__setitem__(1, 7), "AttributeError"),
        (lambda d: d.__setitem__("inputs", [{"name": "x"}] * len(d["inputs"])), "KeyError: 'dtype'"),
    ],
)
def test_a_damaged_document_is_refused(damage: Callable[[dict[str, Any]], object], says: str) -> None:
    changed = document()
    damage(changed)
    with pytest.raises(BundleError) as caught:
        forward_from_json(json.dumps(changed), where="bundle 'b': forward.json")
    assert str(caught.value).startswith("bundle 'b': forward.json is damaged (")
    assert says in str(caught.value)
    assert str(caught.value).endswith("Export again, or take the bundle from a backup.")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "[" * 100_000])
def test_text_that_is_no_such_document_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match="here is damaged"):
        forward_from_json(text, where="here")


def test_another_version_is_refused() -> None:
    changed = document() | {"version": 2}
    with pytest.raises(BundleError, match="version 2, this program reads 'nagedge-forward' version 1"):
        forward_from_json(json.dumps(changed), where="here")
