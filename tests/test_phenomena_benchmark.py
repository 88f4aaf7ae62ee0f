"""benchmarks/phenomena.py: each phenomenon has the rows that it names, and the mean accuracy of all evaluations."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.evaluation.run_files import make_run, write_evaluation


@pytest.fixture
def phenomena(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("phenomena")


def test_each_phenomenon_has_its_rows(phenomena: Any) -> None:
    rows = [
        {"premise": "Un chat dort.", "hypothesis": "Un chat dort.", "label": "entailment"},
        {"premise": "Un chat dort ici.", "hypothesis": "Le chat n'est pas là.", "label": "contradiction"},
        {
            "premise": "Le chat noir dort ici ce soir.",
            "hypothesis": "Il n'y a plus personne dehors",
            "label": "neutral",
        },
        {"premise": "Elle lit.", "hypothesis": "Elle rit plus que lui", "label": "neutral"},
    ]
    found = {name: np.flatnonzero(selected).tolist() for name, selected in phenomena.phenomena(rows)}
    assert found["label: neutral"] == [2, 3]
    assert found["hypothesis with a negation"] == [1, 2]
    assert found["hypothesis with a negation, neutral"] == [2]
    assert found["hypothesis without a negation, entailment"] == [0]
    # Overlaps of 100%, 1 of 6 words, none and 1 of 5 words.
    assert found["words of the hypothesis in the premise: more than 20%"] == [0]
    assert found["words of the hypothesis in the premise: up to 16.7%"] == [1, 2]
    for name in ("premise", "hypothesis", "words of the hypothesis in the premise"):
        parts = [rows for part, rows in found.items() if part.startswith(f"{name}: ") and "," not in part]
        assert sorted(row for part in parts for row in part) == [0, 1, 2, 3]


def test_accuracy_is_the_mean_of_the_evaluations(tmp_path: Path, phenomena: Any) -> None:
    folders = []
    for seed in (0, 1):
        run = make_run(tmp_path / f"seed-{seed}")
        write_evaluation(run, "adapter", seed=0)
        folders.append(run.eval / "adapter")
    lines = (folders[1] / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    wrong = [line.replace('"prediction": "entailment"', '"prediction": "neutral"') for line in lines]
    (folders[1] / "predictions.jsonl").write_text("\n".join(wrong) + "\n", encoding="utf-8")
    single = {result["phenomenon"]: result for result in phenomena.measure(folders[:1])}
    both = {result["phenomenon"]: result for result in phenomena.measure(folders)}
    # The second evaluation finds no entailment.
    assert both["label: entailment"]["accuracy"] == pytest.approx(single["label: entailment"]["accuracy"] / 2)
    assert both["label: contradiction"] == single["label: contradiction"]
    assert sum(result["n"] for name, result in both.items() if name.startswith("label: ")) == 90
    separated = (folders[0] / "predictions.jsonl").read_text(encoding="utf-8").replace("premise 0", "premise \u2028")
    (folders[0] / "predictions.jsonl").write_text(separated, encoding="utf-8")
    assert "\u2028" in separated and phenomena.measure(folders[:1])
    assert phenomena.table(list(both.values()))[1][0] == "label: contradiction"
    for result in both.values():
        assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]
