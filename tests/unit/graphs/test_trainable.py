"""Which parameters a choice of what to train means."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
from models_for_tests import CASES, KIND, TAGS, Case
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.lora import add_lora
from nagedge.graphs.trainable import head_parameters, lora_rank, select_trainable


def chosen(case: Case, trainable: str, added: Sequence[str] = ()) -> list[str]:
    return select_trainable(trainable, case.model, trace_forward(case.model, case.example, case.tasks), added)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("mlp", ["2.weight", "2.bias"]),
        ("conv", ["kind.weight", "kind.bias", "level.weight", "level.bias"]),
        ("gru", ["head.weight", "head.bias"]),
        ("attention", ["kind.weight", "kind.bias", "tags.weight", "tags.bias"]),
        ("two_inputs", ["head.weight", "head.bias"]),
    ],
)
def test_heads_are_found_by_the_flow_of_data(name: str, heads: list[str]) -> None:
    assert chosen(CASES[name](), "heads") == heads


class Deep(nn.Module):
    """Two tasks, one with a deep branch and a parameter of its own at the root."""

    def __init__(self, *, split: bool) -> None:
        super().__init__()
        self.split = split
        self.trunk = nn.Linear(4, 4)
        self.branch = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
        self.scale = nn.Parameter(torch.ones(2))
        self.last = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.trunk(x))
        if self.split:  # one layer gives the outputs of all tasks
            both = self.last(features)
            return both[:, :3], both[:, 3:]
        return self.branch(features), self.scale * features[:, :2]


def test_a_head_may_be_deep_or_a_single_parameter() -> None:
    case = Case(Deep(split=False).eval(), (KIND, TAGS), torch.randn(3, 4))
    assert chosen(case, "heads") == [
        "scale",
        "branch.0.weight",
        "branch.0.bias",
        "branch.2.weight",
        "branch.2.bias",
    ]


def test_one_layer_for_all_tasks_is_the_head() -> None:
    case = Case(Deep(split=True).eval(), (KIND, TAGS), torch.randn(3, 4))
    assert chosen(case, "heads") == ["last.weight", "last.bias"]


def test_all_is_what_the_forward_pass_reads() -> None:
    case = Case(Deep(split=True).eval(), (KIND, TAGS), torch.randn(3, 4))
    assert chosen(case, "all") == ["trunk.weight", "trunk.bias", "last.weight", "last.bias"]


def test_bias_takes_every_kind_of_bias() -> None:
    assert chosen(CASES["gru"](), "bias") == ["gru.bias_ih_l0", "gru.bias_hh_l0", "head.bias"]
    attention = chosen(CASES["attention"](), "bias")
    assert {"layer.self_attn.in_proj_bias", "layer.norm1.bias", "kind.bias"} <= set(attention)
    assert not any("weight" in name for name in attention)


def test_norm_takes_scale_and_offset_of_normalisation() -> None:
    assert chosen(CASES["conv"](), "norm") == [
        "trunk.1.weight",
        "trunk.1.bias",
        "trunk.4.weight",
        "trunk.4.bias",
    ]
    assert chosen(CASES["attention"](), "norm") == [
        f"layer.norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
    ]


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.LayerNorm([4, 3]), nn.RMSNorm([4, 3])],
    ids=str,
)
def test_every_norm_counts(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 1), norm, nn.Flatten(), nn.Linear(12, 3)).eval()
    found = chosen(Case(model, (KIND,), torch.randn(2, 2, 3)), "norm")
    assert found == [f"1.{name}" for name, _ in norm.named_parameters()] != []


def test_a_regular_expression_is_searched_for() -> None:
    case = CASES["conv"]()
    assert chosen(case, r"^trunk\.3") == ["trunk.3.weight", "trunk.3.bias"]
    assert chosen(case, "kind|level.*bias") == ["kind.weight", "kind.bias", "level.bias"]


def test_lora_is_its_branches_and_the_heads() -> None:
    case = CASES["mlp"]()
    forward = trace_forward(case.model, case.example, case.tasks)
    heads = head_parameters(forward, [name for name, _ in case.model.named_parameters()])
    added = add_lora(case.model, 2, skip={name.rpartition(".")[0] for name in heads})
    assert chosen(case, "lora:2", added) == ["0.down.weight", "0.up.weight", "2.weight", "2.bias"]


def test_lora_without_a_branch_that_takes_part_is_refused() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(nn.functional.linear(x, self.layer.weight, self.layer.bias))
            return result

    case = Case(Reads().eval(), (KIND,), torch.randn(3, 4))
    added = add_lora(case.model, 2, skip=["head"])
    with pytest.raises(
        ConfigurationError,
        match="trainable 'lora:2': the model reads the weights of its layers without calling them",
    ):
        chosen(case, "lora:2", added)


@pytest.mark.parametrize(
    ("trainable", "says"),
    [
        (
            "nothing",
            "trainable 'nothing' matches no parameter that the model reads. The model's parameters are 0.weight, 0.b",
        ),
        (
            "norm",
            "that the model reads. Folded BatchNorms have no parameters left: use --batch-norm freeze.",
        ),
        ("(", "trainable '(' is neither all, heads, bias, norm, lora:RANK nor a regular expression: "),
        ("lora", "trainable 'lora': expected 'lora:RANK' with a rank >= 1, e.g. 'lora:4'."),
        ("lora:0", "trainable 'lora:0': expected 'lora:RANK'"),
        ("lora:two", "trainable 'lora:two': expected 'lora:RANK'"),
    ],
)
def test_a_choice_of_nothing_is_refused(trainable: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        chosen(CASES["mlp"](), trainable)


def test_the_rank_is_read_from_the_choice() -> None:
    assert lora_rank("lora:12") == 12
    assert lora_rank("all") is None
    assert lora_rank("floral") is None
