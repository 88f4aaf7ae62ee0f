"""Comparisons: test statistics against published values, checks of the rows, and protection of other files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.errors import DataError, RunError
from toolkit.evaluation.comparison import Comparison, compare, default_output, mcnemar_exact

Call = Callable[..., tuple[int, str, str]]
LABELS = ["entailment", "neutral", "contradiction"]
GOLD = LABELS * 20
RNG = np.random.default_rng(5)
PREDICTED = [LABELS[i] for i in RNG.integers(0, 3, 60)]


def write(
    folder: Path, predicted: Sequence[str | None], gold: Sequence[str] = GOLD, labels: Sequence[str] = LABELS,
    **changes: dict[int, Any],
) -> Path:  # fmt: skip
    """Write an evaluation; `changes` replace a field in some rows, e.g. `premise={3: "other"}`."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(
        json.dumps({"labels": labels, "model": folder.name, "mode": "constrained"}), encoding="utf-8"
    )
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for i, (label, predicted_label) in enumerate(zip(gold, predicted, strict=True)):
            row = {"id": str(i), "premise": f"prémisse {i // 3}", "hypothesis": f"h{i}", "label": label}
            row |= {"prediction": predicted_label, "probabilities": None}
            row |= {key: rows[i] for key, rows in changes.items() if i in rows}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


@pytest.fixture
def evals(tmp_path: Path) -> Path:
    """The eval/ folder of a run with the evaluations `right`, which has no errors, and `random`."""
    folder = tmp_path / "run" / "eval"
    write(folder / "right", GOLD)
    write(folder / "random", PREDICTED)
    return folder


def test_mcnemar_matches_published_value() -> None:
    # Fagerland, Lydersen and Laake 2013 (BMC Medical Research Methodology 13:91): airway hyper-responsiveness before
    # and after transplantation, 1 and 7 discordant of 21; exact conditional p = 0.0703.
    assert mcnemar_exact(1, 7) == mcnemar_exact(7, 1) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar_exact(1, 7) == 2 * (1 + 8) / 2**8
    assert mcnemar_exact(5, 5) == mcnemar_exact(0, 0) == 1.0


def test_counts_and_difference(evals: Path) -> None:
    result = compare([evals / "right", evals / "random"]).record
    (pair,) = result["pairs"]
    correct = sum(a == b for a, b in zip(GOLD, PREDICTED, strict=True))
    assert (pair["both_right"], pair["only_a_right"], pair["only_b_right"], pair["both_wrong"]) == (
        correct,
        60 - correct,
        0,
        0,
    )
    assert pair["difference"] == pytest.approx(1 - correct / 60)
    low, high = pair["difference_ci95"]
    assert 0 < low < pair["difference"] < high < 1
    assert result["agreement"] == [[1.0, correct / 60], [correct / 60, 1.0]]
    assert (result["rows"], result["premise_groups"], result["differing_rows"]) == (60, 20, 60 - correct)
    assert [evaluation["accuracy"] for evaluation in result["evaluations"]] == [1.0, correct / 60]


def test_difference_interval_matches_plain_bootstrap(evals: Path) -> None:
    """The interval agrees with that of a bootstrap that draws premises one by one."""
    result = compare([evals / "right", evals / "random"]).record
    wrong = np.array([a != b for a, b in zip(GOLD, PREDICTED, strict=True)]).reshape(20, 3).sum(axis=1)
    drawn = RNG.integers(0, 20, (20_000, 20))
    expected = np.percentile(wrong[drawn].sum(axis=1) / 60, [2.5, 97.5])
    assert result["pairs"][0]["difference_ci95"] == pytest.approx(expected, abs=0.02)
    assert compare([evals / "right", evals / "random"]).record == result, "the draws depend only on the seed"


def test_swapping_evaluations_flips_the_sign(evals: Path) -> None:
    (pair,) = compare([evals / "right", evals / "random"]).record["pairs"]
    (swapped,) = compare([evals / "random", evals / "right"]).record["pairs"]
    assert swapped["difference"] == -pair["difference"] and swapped["mcnemar_p"] == pair["mcnemar_p"]
    assert swapped["only_b_right"] == pair["only_a_right"]


def test_differing_rows_are_written_with_all_predictions(evals: Path) -> None:
    write(evals / "free", [None, *GOLD[1:]])
    folder = compare([evals / "right", evals / "random", evals / "free"]).folder
    lines = (folder / "differences.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0] == {
        "id": "0", "premise": "prémisse 0", "hypothesis": "h0", "label": "entailment",
        "predictions": {"run/right": "entailment", "run/random": PREDICTED[0], "run/free": None},
    }  # fmt: skip
    differing = [i for i in range(60) if i == 0 or GOLD[i] != PREDICTED[i]]
    assert [row["id"] for row in rows] == [str(i) for i in differing]


def test_label_order_does_not_matter(evals: Path) -> None:
    """Evaluations whose metrics.json list the same labels in different orders can be compared."""
    write(evals / "reversed", GOLD, labels=LABELS[::-1])
    assert compare([evals / "right", evals / "reversed"]).record["differing_rows"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"premise": {7: "autre"}}, "row 8 has premise 'prémisse 2' in the first and 'autre' in the second"),
        ({"id": {7: "x"}, "label": {9: "neutral"}}, "row 8 has id '7' in the first and 'x' in the second"),
        ({"hypothesis": {59: "x" * 99}}, "row 60 has hypothesis 'h59' in the first and 'xxx"),
        ({"label": {0: "neutral"}}, "row 1 has label 'entailment' in the first and 'neutral' in the second"),
    ],
)
def test_error_names_first_differing_row(evals: Path, changes: dict[str, dict[int, Any]], message: str) -> None:
    write(evals / "other", GOLD, **changes)
    with pytest.raises(DataError) as error:
        compare([evals / "right", evals / "random", evals / "other"])
    assert "run/right and run/other do not have the same rows" in str(error.value)
    assert message in str(error.value)
    assert not (evals.parent / "compare").exists()


def test_missing_or_reordered_rows_are_an_error(evals: Path) -> None:
    write(evals / "part", GOLD[:12], GOLD[:12])
    for folders in (["right", "part"], ["part", "right"]):
        with pytest.raises(DataError, match="row 13 is only in run/right"):
            compare([evals / name for name in folders])
    swapped_ids = {0: "1", 1: "0"}
    write(evals / "reordered", GOLD, id=swapped_ids)
    with pytest.raises(DataError, match="row 1 has id '0' in the first and '1' in the second"):
        compare([evals / "right", evals / "reordered"])


def test_different_labels_are_an_error(evals: Path) -> None:
    write(evals / "four", GOLD, labels=[*LABELS, "none"])
    with pytest.raises(
        DataError, match="contradiction, entailment, neutral, but run/four has contradiction, entailment, n"
    ):
        compare([evals / "right", evals / "four"])


def test_invalid_evaluations_are_reported(call: Call, evals: Path, tmp_path: Path) -> None:
    for name, line in (("cut", b'{"id": "0", "prem'), ("latin", b'{"id": "\xe9"}'), ("list", b"[1]"), ("none", b"")):
        write(evals / name, GOLD[:0], [])
        (evals / name / "predictions.jsonl").write_bytes(line)
    write(evals / "gold", GOLD, label={3: None})
    for folder, message in [
        (tmp_path / "nothing", "is not an evaluation folder"),
        (evals.parent, "e.g. " + str(evals / "cut")),
        (evals / "cut", "line 1 is not JSON"),
        (evals / "latin", "line 1 is not JSON"),
        (evals / "list", "line 1 is not a prediction for the labels contradiction, entailment, neutral"),
        (evals / "gold", "line 4 is not a prediction"),
        (evals / "none", "has no rows"),
        (evals / "right", "given twice"),
    ]:
        code, _, err = call("compare", evals / "right", folder)
        assert code == 2 and message in err and err.count("error: ") == 1, err
    assert call("compare", evals / "right")[0] == 2


def test_only_comparisons_are_overwritten(call: Call, evals: Path, tmp_path: Path) -> None:
    folders = [evals / "right", evals / "random"]
    for _ in range(2):
        code, out, err = call("compare", *folders, "--output", tmp_path / "mine")
        assert code == 0 and str(tmp_path / "mine") in out, err
    (tmp_path / "mine" / "notes.txt").write_text("precious", encoding="utf-8")
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    for taken in (tmp_path / "mine", tmp_path / "file", evals / "random", evals.parent):
        before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
        code, _, err = call("compare", *folders, "--output", taken)
        assert code == 2 and "contains something other than an earlier comparison" in err
        assert before == sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    (tmp_path / "empty").mkdir()
    assert call("compare", *folders, "--output", tmp_path / "empty")[0] == 0


def test_default_folders_are_distinct(tmp_path: Path) -> None:
    adapter, base = tmp_path / "a" / "eval" / "adapter", tmp_path / "a" / "eval" / "base"
    other = tmp_path / "b" / "eval" / "adapter"
    assert default_output([adapter, base]) == tmp_path / "a" / "compare" / "adapter--base"
    assert default_output([adapter, other]) == tmp_path / "a" / "compare" / "adapter--b_adapter"
    many = [tmp_path / "a" / "eval" / f"{'x' * 60}{i}" for i in range(5)]
    names = {default_output(many[:4]).name, default_output(many).name, default_output([*many[1:], many[0]]).name}
    assert len(names) == 3 and max(map(len, names)) < 140


def test_runs_with_equal_names_are_shown_by_path(evals: Path, tmp_path: Path) -> None:
    twin = write(tmp_path / "elsewhere" / "run" / "eval" / "right", PREDICTED)
    result = compare([evals / "right", twin]).record
    assert [evaluation["name"] for evaluation in result["evaluations"]] == [str(evals / "right"), str(twin)]


def test_a_single_premise_gives_the_widest_interval(tmp_path: Path) -> None:
    same = dict.fromkeys(range(60), "p")
    folders = [
        write(tmp_path / "r" / "eval" / name, predicted, premise=same)
        for name, predicted in (("a", GOLD), ("b", PREDICTED))
    ]
    assert compare(folders).record["pairs"][0]["difference_ci95"] == (-1.0, 1.0)


def test_report_contains_every_pair(evals: Path) -> None:
    write(evals / "third", PREDICTED)
    text = compare([evals / name for name in ("right", "random", "third")]).report()
    for words in (
        "run/right minus run/random",
        "run/random minus run/third: +0.00%",
        "p = 1",
        "3 p-values are not corrected",
    ):
        assert words in text


def test_results_are_attributes(evals: Path) -> None:
    comparison = compare([evals / "right", evals / "random"])
    (pair,) = comparison.pairs
    assert asdict(pair) == comparison.record["pairs"][0]
    assert (pair.a, pair.b) == ("run/right", "run/random") and pair.difference_ci95[0] < pair.difference
    assert comparison.names == ["run/right", "run/random"]
    assert comparison.agreement.tolist() == comparison.record["agreement"]
    assert comparison.differing_rows == pair.only_a_right
    assert comparison.folder == evals.parent / "compare" / "right--random"
    written = json.loads((comparison.folder / "compare.json").read_text(encoding="utf-8"))
    assert Comparison(comparison.folder, written).pairs == comparison.pairs


def test_missing_parent_folders_are_created(evals: Path, tmp_path: Path) -> None:
    folder = compare([evals / "right", evals / "random"], tmp_path / "x" / "y").folder
    assert sorted(path.name for path in folder.iterdir()) == ["compare.json", "differences.jsonl"]
    with pytest.raises(RunError):
        compare([evals / "right", evals / "right"], tmp_path / "x" / "z")
