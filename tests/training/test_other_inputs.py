"""Training on rows with other inputs than premise and hypothesis: one text, in trees or as an encoder's sequence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.training_run import TrainingOptions, train_run

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def data(tmp_path: Path) -> str:
    """The override of data for a file of 40 opinions."""
    path = tmp_path / "opinions.jsonl"
    rows = [{"text": f"avis {i} : {('bon', 'mauvais')[i % 2]}", "label": ("good", "bad")[i % 2]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"data={{train: {{path: {path}}}, eval_share: 0.2}}"


def train(recipe: Recipe, path: Path) -> RunFolder:
    run = RunFolder(path)
    train_run(recipe, run, TrainingOptions())
    return run


def test_single_text_is_trained_in_trees(
    make_recipe: MakeRecipe, tiny_model: Path, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    task = f"task={{labels: [good, bad], system: '{'Donne ton avis. ' * 8}', user: '{{text}}'}}"
    recipe = make_recipe(f"model.name={tiny_model}", data, task, "evaluation.slice_by=[]")
    record = train(recipe, tmp_path / "run").record
    assert record["batching"]["name"] == "prefix_tree" and record["batching"]["verification"]["error"] is None
    assert (record["group_by"], "group_by_premise" in record) == (["text"], False)
    assert record["data"]["overlap"] == {"text": 0, "rows": 0}
    assert (record["data"]["train"]["rows"], record["data"]["eval"]["rows"]) == (32, 8)
    assert f"a ratio of {record['batching']['token_ratio']:.2f}" in caplog.text


def test_encoder_is_trained_on_one_text(make_encoder_recipe: MakeRecipe, data: str, tmp_path: Path) -> None:
    task = "task={labels: [good, bad], user: '{text}'}"
    record = train(make_encoder_recipe(data, task, "evaluation.slice_by=[]"), tmp_path / "run").record
    assert (record["status"], record["batching"]["name"]) == ("completed", "padded")
