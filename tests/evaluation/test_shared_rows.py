"""A run on one text per row that evaluates a share of its own file, and the same run on the rows of another file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import toolkit
from toolkit.data.splits import Splits, load_splits
from toolkit.evaluation import evaluator
from toolkit.evaluation.evaluation import load_evaluations
from toolkit.recipe.loading import load_recipe
from toolkit.reporting.report_data import gather_report
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

Call = Callable[..., tuple[int, str, str]]
WORDS = {"positif": "excellent", "négatif": "mauvais"}


def write_rows(path: Path, count: int, noun: str) -> Path:
    labels = list(WORDS)
    rows = [{"avis": f"Le {noun} numéro {i} est {WORDS[labels[i % 2]]}.", "note": labels[i % 2]} for i in range(count)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunFolder:
    """A run of two steps on a file of 40 rows, with a quarter to evaluate on. Tests must not change its adapter."""
    from toolkit.training.training_run import TrainingOptions, train_run

    folder = tmp_path_factory.mktemp("shared")
    recipe: dict[str, Any] = {
        "task": {"labels": list(WORDS), "system": "Classe l'avis.", "user": "{text}"},
        "data": {
            "train": {"path": str(write_rows(folder / "avis.jsonl", 40, "film"))},
            "eval_share": 0.25,
            "calibration_share": 0.2,
            "columns": {"text": "avis", "label": "note"},
        },
        "model": {"name": str(tiny_model), "dtype": "float32", "max_seq_length": 128},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
        "training": {"batch_size": 8, "max_steps": 2, "learning_rate": 0.02},
    }
    path = folder / "sentiment.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    run = RunFolder(folder / "run")
    train_run(load_recipe(path), run, TrainingOptions())
    return run


def metrics_of(run: RunFolder, name: str) -> dict[str, Any]:
    return json.loads((run.eval / name / "metrics.json").read_text(encoding="utf-8"))


def test_own_share_is_evaluated(shared_run: RunFolder, call: Call) -> None:
    code, out, err = call("eval_generate", shared_run.path)
    assert code == 0, err
    metrics = metrics_of(shared_run, "adapter")
    assert (metrics["n"], metrics["inputs"], metrics["groups"], metrics["overrides"]) == (10, ["text"], 10, {})
    assert list(metrics["baselines"]) == ["random", "majority", "all_inputs"] and "over 10 texts" in out
    assert metrics["calibration"] is not None
    rows = (shared_run.eval / "adapter" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert list(json.loads(rows[0])) == ["id", "text", "label", "prediction", "probabilities"]
    evaluated = {json.loads(row)["text"] for row in rows}
    splits = load_splits(TrainedRun.open(shared_run.path).recipe)
    assert not evaluated & {row.group for row in [*splits.train, *splits.calibration_set]}


def test_other_rows_are_all_evaluated(
    shared_run: RunFolder, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another file, all its rows count, and the training rows are still those without the run's own share."""
    splits = load_splits(TrainedRun.open(shared_run.path).recipe)
    used: list[Splits] = []

    def load(*arguments: Any, **options: Any) -> Splits:
        used.append(load_splits(*arguments, **options))
        return used[-1]

    monkeypatch.setattr(evaluator, "load_splits", load)
    other = write_rows(tmp_path / "autres.jsonl", 14, "livre")
    code, _, err = call("eval_generate", shared_run.path, "--data", other)
    assert code == 0, err
    assert (used[0].train, used[0].calibration_set) == (splits.train, splits.calibration_set)
    name = f"adapter@{tmp_path.name}-autres"
    metrics = metrics_of(shared_run, name)
    assert metrics["n"] == 14 and metrics["overrides"] == {"data.eval.path": str(other)}
    assert metrics["calibration"] is not None, "the calibration rows are those of the run"
    commands = gather_report(TrainedRun.open(shared_run.path)).commands
    assert any(command.endswith(f"-again --data {other}") for command in commands), commands


def test_trained_rows_are_not_evaluated(shared_run: RunFolder, call: Call) -> None:
    """The run's own file as other rows contains the training rows, and another seed would select some of them."""
    recipe = TrainedRun.open(shared_run.path).recipe
    code, _, err = call("eval_generate", shared_run.path, "--data", recipe.data.train.path)
    assert code == 2 and "30 rows occur in both data.train and data.eval" in err
    for override in ("seed=7", "data.eval_share=0.5", "data.train.limit=20"):
        code, _, err = call("eval_generate", shared_run.path, "--set", override, "--set", "evaluation.baselines=false")
        assert code == 2 and f"--set {override.partition('=')[0]} can change which rows data.eval_share holds" in err, (
            err
        )


def test_limit_applies_to_the_share(shared_run: RunFolder, call: Call) -> None:
    assert call("eval_generate", shared_run.path, "--limit", "4", "--model", "base")[0] == 0
    evaluations = load_evaluations(TrainedRun.open(shared_run.path))
    (limited,) = [evaluation for evaluation in evaluations if evaluation.limit == 4]
    assert limited.n == 4 and limited.name.startswith("base@") and limited.name.endswith("-limit4")


def test_other_file_is_read_like_own_rows(shared_run: RunFolder, call: Call, tmp_path: Path) -> None:
    """Overrides of how data.eval is read apply to the file of --data."""
    path = tmp_path / "avis.csv"
    path.write_text("Un bon livre, excellent;positif\nUn livre mauvais;négatif\n", encoding="utf-8")
    changes = {"header": "false", "names": "[avis, note]", "delimiter": '";"'}
    flags = [word for key, value in changes.items() for word in ("--set", f"data.eval.format.{key}={value}")]
    flags += ["--set", "data.eval_share=0", "--set", "evaluation.baselines=false"]
    code, _, err = call("eval_generate", shared_run.path, "--data", path, *flags)
    assert code == 0, err
    (evaluation,) = [
        evaluation
        for evaluation in load_evaluations(TrainedRun.open(shared_run.path))
        if evaluation.source.endswith("avis.csv")
    ]
    first, _ = evaluation.predictions.read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["text"] == "Un bon livre, excellent"


def test_single_text_is_predicted_by_flag(shared_run: RunFolder, call: Call) -> None:
    outputs = [
        call("predict", shared_run.path, "--text", text)
        for text in ("Un film = mauvais.", "text=Un film = mauvais.", "Un film excellent.")
    ]
    assert [code for code, _, _ in outputs] == [0] * 3, outputs
    assert outputs[0][1] == outputs[1][1] != outputs[2][1]
    code, out, err = call("predict", shared_run.path, "--premise", "a", "--hypothesis", "b")
    assert (code, out) == (2, "") and "has no input premise; the input is text." in err
    assert "hint: Write --text VALUE." in err
    code, out, err = call("predict", shared_run.path, "--text", " ")
    assert (code, out) == (2, "") and "The row cannot be scored: column 'text' must contain text" in err


def test_truncated_text_is_named(shared_run: RunFolder, call: Call) -> None:
    code, _, err = call("predict", shared_run.path, "--text", "mot " * 400)
    assert code == 0 and "WARNING: 1 of 1 texts were truncated" in err


def test_classifier_accepts_plain_texts(shared_run: RunFolder) -> None:
    texts = ["Un film excellent.", "Un film mauvais."]
    with toolkit.open_run(shared_run.path).load() as classifier:
        assert classifier.predict(texts) == classifier.predict([{"text": text} for text in texts])


def test_card_and_report_name_the_text(shared_run: RunFolder, call: Call) -> None:
    assert call("eval_generate", shared_run.path)[0] == 0
    card = (shared_run.adapter / "README.md").read_text(encoding="utf-8")
    assert "Given the input text, it predicts one of\n2 labels" in card and '--text "Put the text here."' in card
    assert "natural-language-inference" not in card and "name: Text Classification" in card
    assert "language:" not in card, "nothing tells the language of the rows"
    assert "In longer rows, text is truncated at the end." in card
    page = (shared_run.path / "report.html").read_text(encoding="utf-8")
    assert (
        "Given the input text, predict one of 2 labels." in page
        and "premise" not in page.partition("How to reproduce")[0]
    )


def test_single_text_is_exported(shared_run: RunFolder, call: Call) -> None:
    code, out, err = call("export_gguf", shared_run.path, "--verify", "all")
    assert code == 0 and "passed" in out, err
    parity = json.loads((shared_run.path / "gguf" / "parity.json").read_text(encoding="utf-8"))
    assert parity["rows"] == 10, "the rows of the share, not all of the file"
    readme = (shared_run.path / "gguf" / "README.md").read_text(encoding="utf-8")
    assert "```\n{text}\n```" in readme and "numéro" in readme
