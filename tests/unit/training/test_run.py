"""The run file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from nagedge.errors import ConfigurationError
from nagedge.training.run import RUN_TEMPLATE, Run, load_run, parse_run, run_json_schema

SMALL = """
[data]
source = "arrays"
path = "data/x.npz"
[tasks.a]
kind = "classification"
size = 3
"""


def load(tmp_path: Path, text: str) -> Run:
    file = tmp_path / "run.toml"
    file.write_text(text)
    return load_run(file)


def test_the_template_is_a_valid_run_of_three_tasks(tmp_path: Path) -> None:
    run = load(tmp_path, RUN_TEMPLATE)
    assert [task.name for task in run.task_specs()] == ["digit", "slant", "stroke_mass"]
    assert run.task_specs()[1].unit == "degrees"
    assert run.optimizer.momentum == 0.9


def test_the_template_satisfies_the_json_schema_and_a_wrong_key_does_not() -> None:
    schema, document = run_json_schema(), tomllib.loads(RUN_TEMPLATE)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    document["optimizer"]["lrate"] = 1
    with pytest.raises(jsonschema.ValidationError, match="lrate"):
        jsonschema.validate(document, schema)


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    run = load(tmp_path, 'output = "out"\n' + SMALL)
    assert run.output == tmp_path.resolve() / "out"
    assert run.data.path == tmp_path.resolve() / "data" / "x.npz"
    elsewhere = load(tmp_path, f'output = "{tmp_path.as_posix()}/abs"\n' + SMALL)
    assert elsewhere.output == tmp_path / "abs"


def test_a_run_survives_the_way_through_json(tmp_path: Path) -> None:
    for text in (RUN_TEMPLATE, SMALL):
        run = load(tmp_path, text)
        again = parse_run(run.model_dump(mode="json", exclude_unset=True), where="json")
        assert again.model_dump() == run.model_dump()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 3\n" + SMALL, "unknown key 'batchsize'. Did you mean 'batch_size'?"),
        (SMALL + "szie = 3\n", "unknown key 'tasks.a.szie'. Did you mean 'size'?"),
        (SMALL + "[optimizer]\nmomentm = 0.9\n", "unknown key 'optimizer.momentm'. Did you mean 'momentum'?"),
        (
            SMALL + "[optimizer]\nxyz = 0.9\n",
            "unknown key 'optimizer.xyz'. Known here: method, sam, lr, momentum, momentum_schedule, restart,",
        ),
        (SMALL + "[data.split]\ntran = 0.5\n", "unknown key 'data.split.tran'. Did you mean 'train'?"),
        (SMALL + "[optimizer]\nmomentum = 1.5\n", "optimizer.momentum is 1.5: input should be less than 1."),
        (SMALL + "[optimizer]\nlr = nan\n", "optimizer.lr is nan: input should be"),
        (
            SMALL + "[schedule]\nepochs = 2\nwarmup = 2\n",
            "schedule: warmup is 2 epochs of 2, expected fewer",
        ),
        (
            SMALL.replace("size = 3", "size = 1"),
            "task 'a': size is 1, a classification task needs at least 2.",
        ),
        (
            SMALL.replace("size = 3", 'size = 3\nloss = "mse"'),
            "task 'a': a classification task has no loss 'mse'",
        ),
        (SMALL.replace("tasks.a", 'tasks."a b"'), "task name 'a b' is not an identifier"),
        (
            SMALL.replace('"classification"', '"clasification"'),
            (
                "unknown kind 'clasification'; expected one of "
                "classification, binary, multilabel, regression, ordinal, quantile, mixture, segmentation, tagging, "
                "embedding. Did you mean 'classification'?"
            ),
        ),
        ('[data]\nsource = "mnist"\n', "key 'tasks' is missing. Add it."),
        ('[data]\nsource = "mnist"\n[tasks]\n', "tasks is {}: "),
        ("a = [\n", "is not valid TOML: "),
    ],
)
def test_a_wrong_run_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, text)
    assert str(error.value).startswith(f"run file '{tmp_path / 'run.toml'}'")
    assert message in str(error.value)


def test_one_error_lists_everything_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, "batchsize = 3\n" + SMALL + "[optimizer]\nlr = 0\n")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "optimizer.lr is 0" in str(error.value)
    assert "batchsize" in str(error.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cannot be read: No such file or directory. Write one with: nagedge init"
    ):
        load_run(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"is not a text file in UTF-8, expected TOML"):
        load_run(tmp_path / "b.toml")


def test_every_key_has_a_description() -> None:
    def undescribed(node: object, where: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        missing = [
            f"{where}.{name}"
            for name, field in node.get("properties", {}).items()
            if "description" not in field and "$ref" not in field
        ]
        return missing + [
            m for name, inner in node.get("$defs", {}).items() for m in undescribed(inner, name)
        ]

    assert [name for name in undescribed(run_json_schema(), "Run") if not name.startswith("Data")] == []
