"""Files as they are published: every row and label arrives, and each shape trains, evaluates, predicts and exports."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.end_to_end.published_files import SHAPES, LabeledTexts, PublishedFiles, hans, trec, trec_converted
from toolkit.api.run import Run, open_run
from toolkit.api.training import train
from toolkit.data.example import Example
from toolkit.data.file_reader import stream_file
from toolkit.data.splits import load_splits
from toolkit.recipe.loading import build_recipe
from toolkit.recipe.schema import Recipe

EXPORTED = ("ag_news", "three_inputs", "mrpc")
PREDICTED = ("ag_news", "rte", "mrpc", "tweets", "pandas_tsv", "float_labels", "three_inputs")
NAMES = [*SHAPES, "trec"]


def convert_trec(folder: Path) -> Path:
    """Run the command with which docs/data.md converts TREC's file."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^LC_ALL=C sed .*$", page, re.MULTILINE)
    subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    return folder / "train_5500.tsv"


def write_shape(name: str, folder: Path) -> PublishedFiles:
    """Write the files of one shape, converted where that is necessary."""
    if name != "trec":
        return SHAPES[name](folder)
    rows = trec(folder)
    return trec_converted(convert_trec(folder), rows)


def build(files: PublishedFiles, model: Path) -> Recipe:
    """Return a small recipe for files of one shape."""
    sections: dict[str, Any] = {
        "model": {"name": str(model), "dtype": "float32", "max_seq_length": 256},
        "lora": {"r": 2, "alpha": 4, "dropout": 0.0},
        "training": {"max_steps": 2, "batch_size": 4, "learning_rate": 0.02},
    }
    return build_recipe({**sections, **files.recipe}, "the recipe")


def as_rows(examples: list[Example]) -> list[LabeledTexts]:
    return [(example.texts, example.label) for example in examples]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_and_label_arrives(name: str, tmp_path: Path, tiny_model: Path) -> None:
    files = write_shape(name, tmp_path)
    recipe = build(files, tiny_model)
    splits = load_splits(recipe)
    train_rows, eval_rows = as_rows(splits.train), as_rows(splits.eval)
    if files.eval:
        assert (train_rows, eval_rows) == (files.train, files.eval)
    else:
        assert Counter([*train_rows, *eval_rows]) == Counter(files.train)
        assert 0.5 * len(files.train) < len(train_rows) < 0.9 * len(files.train)
    assert len({example.id for example in splits.eval}) == len(splits.eval)


@pytest.mark.parametrize("name", NAMES)
def test_shape_trains_evaluates_predicts(name: str, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "data").mkdir()
    files = write_shape(name, tmp_path / "data")
    recipe = build(files, tiny_model)
    run = train(recipe, output_dir=tmp_path / "run")
    evaluation = run.evaluate()
    expected = files.eval or [
        (tuple(row[name] for name in recipe.task.inputs), row["label"]) for row in predictions(run)
    ]
    assert [tuple(row[name] for name in recipe.task.inputs) for row in predictions(run)] == [
        texts for texts, _ in expected
    ]
    assert evaluation.n == len(expected) and 0 <= evaluation.accuracy <= 1
    assert set(evaluation.labels) == set(recipe.task.labels)
    with run.load() as classifier:
        answers = classifier.predict([texts if len(texts) > 1 else texts[0] for texts, _ in expected[:4]])
    assert list(answers) == [row["prediction"] for row in predictions(run)][:4]
    if name in PREDICTED:
        check_file_predictions(run, recipe)
    if name in EXPORTED:
        exported = open_run(tmp_path / "run").export("f16", verify="all")
        assert exported.agreement["gguf-f16"] >= 0.99


def check_file_predictions(run: Run, recipe: Recipe) -> None:
    """Check that the untouched evaluation file, predicted as a file, gets the answers of the evaluation."""
    source = Path(str(recipe.data.eval.path))
    target = Path(run.path).parent / f"predicted{''.join(source.suffixes).lower()}"
    run.predict_file(source, target)
    form = recipe.data.eval.format
    if not form.header:  # the output has no header either: prediction and probabilities follow the other fields
        form = form.model_copy(update={"names": (*(form.names or ()), "prediction", *recipe.task.labels)})
    rows = list(stream_file(target, form))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in predictions(run)]


def predictions(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the predictions of the adapter."""
    text = (Path(run.path) / "eval" / "adapter" / "predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_three_way_model_measures_two_way(tmp_path: Path, tiny_model: Path) -> None:
    """A model of three labels is measured on HANS, whose second label merges two of them."""
    for name in ("anli", "hans"):
        (tmp_path / name).mkdir()
    run = train(build(SHAPES["anli"](tmp_path / "anli"), tiny_model), output_dir=tmp_path / "run")
    two_way = hans(tmp_path / "hans")
    overrides = {
        "evaluation.merge_labels": {"non-entailment": ["neutral", "contradiction"]},
        "data.eval": two_way.data["eval"] | {"columns": two_way.data["columns"]},
    }
    evaluation = open_run(run.path, overrides).evaluate()
    assert evaluation.n == len(two_way.eval)
    assert set(evaluation.labels) == {"entailment", "non-entailment"}
