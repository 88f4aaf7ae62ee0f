"""The shipped recipes for tasks other than NLI run on generated files of their shapes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.end_to_end.published_files import pairs, sentences, single
from toolkit.api.run import open_run
from toolkit.recipe.loading import load_recipe
from toolkit.recipe.schema import Recipe

Call = Callable[..., tuple[int, str, str]]
SECTIONS = ["world", "politics", "business", "technology", "science", "health", "sports", "culture", "travel", "food",
            "education", "weather"]  # fmt: skip


def write_table(path: Path, rows: list[tuple[str, ...]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def write_sentiment_fr(folder: Path, split: str, start: int) -> None:
    rows = [(text, label) for (text,), label in single(18, ["0", "1"], start)]
    write_table(folder / f"{split}.csv", [("text", "label"), *rows])


def write_topics(folder: Path, split: str, start: int) -> None:
    numbers = [str(number) for number in range(1, 13)]
    write_table(folder / f"{split}.csv", [(label, texts[0]) for texts, label in single(24, numbers, start)])


def write_stance(folder: Path, split: str, start: int) -> None:
    labels, targets = ["FAVOR", "AGAINST", "NONE"], ["le vélo", "le train"]
    rows = [(str(n), targets[n % 2], f'"{texts[0]}', label)
            for n, (texts, label) in enumerate(single(18, labels, start))]  # fmt: skip
    text = "".join("\t".join(row) + "\n" for row in [("ID", "Target", "Tweet", "Stance"), *rows])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.tsv").write_text(text, encoding="utf-8")


def write_qa_nli(folder: Path, split: str, start: int) -> None:
    contexts = sentences(6, start + 900)
    rows = [
        {"context": contexts[n // 3], "question": one.replace(".", " ?"), "answer": two, "label": label}
        for n, ((one, two), label) in enumerate(pairs(18, ["supported", "refuted", "unknown"], start))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


WRITERS: dict[str, Callable[[Path, str, int], None]] = {
    "sentiment_fr": write_sentiment_fr,
    "topics": write_topics,
    "stance": write_stance,
    "qa_nli": write_qa_nli,
}
INPUTS = {
    "sentiment_fr": ("text",),
    "topics": ("text",),
    "stance": ("text", "target"),
    "qa_nli": ("context", "question", "response"),
}


def small_settings(model: Path) -> list[str]:
    """Return the arguments that run a recipe on a tiny model in a few steps."""
    settings = [
        f"model.name={model}",
        "model.dtype=float32",
        "training.max_steps=2",
        "training.batch_size=6",
        "lora.r=2",
    ]
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.parametrize("name", WRITERS)
def test_recipe_runs_on_its_shape(
    name: str, call: Call, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths in the recipe are relative, so its files are written below the working directory."""
    monkeypatch.chdir(tmp_path)
    for split, start in (("train", 0), ("test", 100)):
        WRITERS[name](tmp_path / "data" / name, split, start)
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert recipe.task.inputs == INPUTS[name]
    code, out, err = call("sft", ROOT / "recipes" / f"{name}.yaml", *small_settings(tiny_model))
    assert code == 0, out + err
    code, out, err = call("eval_generate", Path("outputs") / name)
    assert code == 0, out + err
    rows = read_predictions(tmp_path / "outputs" / name)
    assert len(rows) == (24 if name == "topics" else 18)
    fields = {"id", *INPUTS[name], "label", "prediction", "probabilities"}
    assert all(set(row) == fields and row["prediction"] in recipe.task.labels for row in rows)
    check_single_row(call, recipe, Path("outputs") / name, rows[0])


def check_single_row(call: Call, recipe: Recipe, run: Path, row: dict[str, Any]) -> None:
    """Check that predict.py gives the answer of the evaluation for a row in flags."""
    texts = [word for name in recipe.task.inputs for word in ("--text", f"{name}={row[name]}")]
    code, out, err = call("predict", run, *texts)
    assert code == 0 and row["prediction"] in out.splitlines()[0], out + err


def read_predictions(run: Path) -> list[dict[str, Any]]:
    text = (run / "eval" / "adapter" / "predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", WRITERS)
def test_missing_file_is_one_sentence(name: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call("sft", ROOT / "recipes" / f"{name}.yaml")
    assert (code, err.count("error: ")) == (2, 1)
    assert "Data file not found" in err and f"data/{name}/train" in err
    assert list(tmp_path.iterdir()) == []


def test_topics_list_every_section(tmp_path: Path) -> None:
    """The instruction names every label, and numbers map to labels in order."""
    recipe = load_recipe(ROOT / "recipes" / "topics.yaml")
    assert list(recipe.task.labels) == SECTIONS and recipe.data.label_map == dict(enumerate(SECTIONS, 1))
    assert all(label in (recipe.task.system or "") for label in SECTIONS)


def test_qa_exports_with_three_inputs(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.api.training import train

    monkeypatch.chdir(tmp_path)
    for split, start in (("train", 0), ("test", 100)):
        write_qa_nli(tmp_path / "data" / "qa_nli", split, start)
    overrides = {
        "model.name": str(tiny_model),
        "model.dtype": "float32",
        "training.max_steps": 2,
        "training.learning_rate": 0.02,
    }
    run = train(ROOT / "recipes" / "qa_nli.yaml", overrides, output_dir="run")
    assert open_run(run.path).export("f16", verify="all").agreement["gguf-f16"] >= 0.99
