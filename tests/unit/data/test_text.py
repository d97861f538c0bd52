"""Text: the rule of the tokens, the vocabulary of the training rows, a run from a table to a bundle."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import nagedge
from nagedge.data.load import load_data, load_examples
from nagedge.data.preprocessing import Preprocessing
from nagedge.data.tokens import Tokenise, split_text, vocabulary_of
from nagedge.errors import DataError
from nagedge.evaluation import evaluate
from nagedge.training.fit import train
from nagedge.training.run import Run, parse_run

GOOD, BAD = ["good", "great", "lovely", "fine"], ["bad", "awful", "poor", "dire"]


def write(path: Path, rows: int, *extra: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "mood"])
        for _ in range(rows):
            kind = int(rng.integers(2))
            words = [
                str(rng.choice((BAD, GOOD)[kind])),
                *map(str, rng.choice(["the", "film", "was", "!"], 4)),
            ]
            writer.writerow([" ".join(rng.permutation(words)), ("bad", "good")[kind]])
        writer.writerows(extra)


def run_of(path: Path, **preprocessing: object) -> Run:
    document = {
        "data": {
            "source": "text", "path": str(path), "columns": ["text"], "classes": {"mood": ["bad", "good"]},
            "preprocessing": {"tokens": 6, **preprocessing},
        },
        "model": {"trunk": "tokens", "channels": [8, 8]},
        "tasks": {"mood": {"kind": "classification", "size": 2}},
        "optimizer": {"lr": 0.3, "clip_norm": 1.0},
        "schedule": {"epochs": 6},
        "batch_size": 16,
    }  # fmt: skip
    return parse_run(document, where="test")


def test_the_rule_of_the_tokens() -> None:
    assert split_text("It's GREAT, isn't it?!") == ["it's", "great", ",", "isn't", "it", "?", "!"]
    assert split_text("Für 20€ \n") == ["f", "ü", "r", "20", "€"]
    step = Tokenise(vocabulary_of(["b a a", "a b c"], 10), 4)
    assert step.words == ("a", "b")  # c occurs once
    assert step.apply(np.array(["b A zz", "a a a a a", ""], dtype=object)).tolist() == [
        [3, 2, 1, 0],
        [2, 2, 2, 2],
        [0, 0, 0, 0],
    ]
    assert vocabulary_of(["b b a a c c"], 2) == ("a", "b")


def test_from_a_table_to_a_bundle_that_reads_text(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 300)
    run = run_of(tmp_path / "t.csv")
    checkpoint = train(run, out=tmp_path / "c")
    assert checkpoint.state.test["mood"]["accuracy"] > 0.95
    words = checkpoint.preprocessing.steps[0]
    assert isinstance(words, Tokenise)
    assert set(GOOD + BAD) <= set(words.words)
    bundle = nagedge.export(checkpoint, targets=["any-any-onnxruntime-fp32-train"], out=tmp_path / "b")
    stored = json.loads((tmp_path / "b" / "manifest.json").read_text())["preprocessing"]
    assert Preprocessing.from_json(stored) == checkpoint.preprocessing
    assert all(c.within_tolerance for c in nagedge.verify(bundle, steps=3))
    with (tmp_path / "new.csv").open("w") as file:
        file.write("text,mood\na GREAT film,good\nawful. dire,bad\n")
    examples, _ = load_examples(
        tmp_path / "new.csv", checkpoint.tasks, checkpoint.preprocessing, checkpoint.input
    )
    assert examples.inputs["tokens"].shape == (2, 6)
    assert evaluate(bundle, examples)["mood"]["accuracy"] == 1.0


def test_the_vocabulary_is_that_of_the_training_rows(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 100)
    run = run_of(tmp_path / "t.csv", vocabulary=3)
    data = load_data(run.data, run.task_specs())
    assert data.preprocessing.vocabulary == 5
    assert data.train.inputs["tokens"].max() == 4
    assert data.input.dtype == "int64"


def test_empty_texts_and_duplicates(tmp_path: Path) -> None:
    write(
        tmp_path / "t.csv", 30, ("  ", "good"), ("the same", "bad"), ("the same", "bad"), ("the same", "good")
    )
    with pytest.raises(DataError, match=r"row 31: missing input value: got an empty text in column 'text'"):
        load_data(run_of(tmp_path / "t.csv").data, run_of(tmp_path / "t.csv").task_specs())
    run = run_of(tmp_path / "t.csv", missing="drop", duplicates="drop")
    report = load_data(run.data, run.task_specs()).report
    dropped = {entry.reason: (entry.count, entry.first_rows) for entry in report.dropped}
    assert dropped["missing input value"] == (1, ("row 31",))
    assert "row 33" in dropped["duplicate"][1]
    assert "row 34" not in dropped["duplicate"][1]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"source": "text", "path": "t.csv", "columns": ["a"]}, "and tokens in"),
        (
            {"source": "text", "path": "t.csv", "columns": ["a", "b"], "preprocessing": {"tokens": 3}},
            "one name",
        ),
        ({"source": "mnist", "preprocessing": {"tokens": 3}}, "tokens and vocabulary are for source 'text'"),
        ({"source": "audio", "path": "x", "preprocessing": {"log_mel": {}}}, "needs labels"),
        ({"source": "mnist", "preprocessing": {"log_mel": {}}}, "log_mel is for source 'audio'"),
    ],
)
def test_wrong_tables_are_refused(data: dict[str, object], text: str) -> None:
    from nagedge.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=text):
        parse_run({"data": data, "tasks": {"a": {"kind": "binary"}}}, where="test")
