"""Comparisons: published tests, the same rows or none, and nothing overwritten that is no comparison."""

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
SAID = [LABELS[i] for i in RNG.integers(0, 3, 60)]


def write(
    folder: Path, predicted: Sequence[str | None], gold: Sequence[str] = GOLD, labels: Sequence[str] = LABELS,
    **changes: dict[int, Any],
) -> Path:  # fmt: skip
    """An evaluation; `changes` replace a field in rows, e.g. `premise={3: "other"}`."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(
        json.dumps({"labels": labels, "model": folder.name, "mode": "constrained"}), encoding="utf-8"
    )
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for i, (label, said) in enumerate(zip(gold, predicted, strict=True)):
            row = {"id": str(i), "premise": f"prémisse {i // 3}", "hypothesis": f"h{i}", "label": label}
            row |= {"prediction": said, "probabilities": None}
            row |= {key: rows[i] for key, rows in changes.items() if i in rows}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


@pytest.fixture
def evals(tmp_path: Path) -> Path:
    """The eval/ of a run with the evaluations `right`, which errs in none, and `random`."""
    folder = tmp_path / "run" / "eval"
    write(folder / "right", GOLD)
    write(folder / "random", SAID)
    return folder


def test_mcnemars_exact_test_is_the_published_one() -> None:
    # Fagerland, Lydersen and Laake 2013 (BMC Medical Research Methodology 13:91): airway hyper-responsiveness before
    # and after transplantation, 1 and 7 discordant of 21; exact conditional p = 0.0703.
    assert mcnemar_exact(1, 7) == mcnemar_exact(7, 1) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar_exact(1, 7) == 2 * (1 + 8) / 2**8
    assert mcnemar_exact(5, 5) == mcnemar_exact(0, 0) == 1.0


def test_counts_and_difference_are_those_of_the_rows(evals: Path) -> None:
    result = compare([evals / "right", evals / "random"]).record
    (pair,) = result["pairs"]
    hits = sum(a == b for a, b in zip(GOLD, SAID, strict=True))
    assert (pair["both_right"], pair["only_a_right"], pair["only_b_right"], pair["both_wrong"]) == (
        hits,
        60 - hits,
        0,
        0,
    )
    assert pair["difference"] == pytest.approx(1 - hits / 60)
    low, high = pair["difference_ci95"]
    assert 0 < low < pair["difference"] < high < 1
    assert result["agreement"] == [[1.0, hits / 60], [hits / 60, 1.0]]
    assert (result["rows"], result["premise_groups"], result["differing_rows"]) == (60, 20, 60 - hits)
    assert [one["accuracy"] for one in result["evaluations"]] == [1.0, hits / 60]


def test_the_interval_of_the_difference_is_that_of_premises_drawn_by_hand(evals: Path) -> None:
    result = compare([evals / "right", evals / "random"]).record
    wrong = np.array([a != b for a, b in zip(GOLD, SAID, strict=True)]).reshape(20, 3).sum(axis=1)
    drawn = RNG.integers(0, 20, (20_000, 20))
    wanted = np.percentile(wrong[drawn].sum(axis=1) / 60, [2.5, 97.5])
    assert result["pairs"][0]["difference_ci95"] == pytest.approx(wanted, abs=0.02)
    assert compare([evals / "right", evals / "random"]).record == result, "the seed decides, not the process's hashes"


def test_exchanging_the_evaluations_turns_the_sign(evals: Path) -> None:
    (one,) = compare([evals / "right", evals / "random"]).record["pairs"]
    (other,) = compare([evals / "random", evals / "right"]).record["pairs"]
    assert other["difference"] == -one["difference"] and other["mcnemar_p"] == one["mcnemar_p"]
    assert other["only_b_right"] == one["only_a_right"]


def test_the_rows_that_differ_are_written_with_every_prediction(evals: Path) -> None:
    write(evals / "free", [None, *GOLD[1:]])
    folder = compare([evals / "right", evals / "random", evals / "free"]).folder
    lines = (folder / "differences.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0] == {
        "id": "0", "premise": "prémisse 0", "hypothesis": "h0", "label": "entailment",
        "predictions": {"run/right": "entailment", "run/random": SAID[0], "run/free": None},
    }  # fmt: skip
    differing = [i for i in range(60) if i == 0 or GOLD[i] != SAID[i]]
    assert [row["id"] for row in rows] == [str(i) for i in differing]


def test_the_order_of_the_labels_in_metrics_json_does_not_matter(evals: Path) -> None:
    write(evals / "turned", GOLD, labels=LABELS[::-1])
    assert compare([evals / "right", evals / "turned"]).record["differing_rows"] == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"premise": {7: "autre"}}, "row 8 has premise 'prémisse 2' in the one and 'autre' in the other"),
        ({"id": {7: "x"}, "label": {9: "neutral"}}, "row 8 has id '7' in the one and 'x' in the other"),
        ({"hypothesis": {59: "x" * 99}}, "row 60 has hypothesis 'h59' in the one and 'xxx"),
        ({"label": {0: "neutral"}}, "row 1 has label 'entailment' in the one and 'neutral' in the other"),
    ],
)
def test_other_rows_are_refused_by_the_first_that_differs(
    evals: Path, changes: dict[str, dict[int, Any]], sentence: str
) -> None:
    write(evals / "other", GOLD, **changes)
    with pytest.raises(DataError) as refused:
        compare([evals / "right", evals / "random", evals / "other"])
    assert "run/right and run/other are not about the same rows" in str(refused.value)
    assert sentence in str(refused.value)
    assert not (evals.parent / "compare").exists()


def test_a_part_of_the_rows_and_another_order_are_refused(evals: Path) -> None:
    write(evals / "part", GOLD[:12], GOLD[:12])
    for folders in (["right", "part"], ["part", "right"]):
        with pytest.raises(DataError, match="row 13 stands in run/right alone"):
            compare([evals / name for name in folders])
    order = {0: "1", 1: "0"}
    write(evals / "turned", GOLD, id=order)
    with pytest.raises(DataError, match="row 1 has id '0' in the one and '1' in the other"):
        compare([evals / "right", evals / "turned"])


def test_other_labels_are_refused(evals: Path) -> None:
    write(evals / "two", GOLD, labels=[*LABELS, "none"])
    with pytest.raises(
        DataError, match="contradiction, entailment, neutral, run/two about contradiction, entailment, n"
    ):
        compare([evals / "right", evals / "two"])


def test_what_is_no_evaluation_is_one_sentence(call: Call, evals: Path, tmp_path: Path) -> None:
    for name, line in (("cut", b'{"id": "0", "prem'), ("latin", b'{"id": "\xe9"}'), ("list", b"[1]"), ("none", b"")):
        write(evals / name, GOLD[:0], [])
        (evals / name / "predictions.jsonl").write_bytes(line)
    write(evals / "gold", GOLD, label={3: None})
    for folder, sentence in [
        (tmp_path / "nothing", "is no evaluation"),
        (evals.parent, "e.g. " + str(evals / "cut")),
        (evals / "cut", "line 1 is not JSON"),
        (evals / "latin", "line 1 is not JSON"),
        (evals / "list", "line 1 is no prediction on the labels contradiction, entailment, neutral"),
        (evals / "gold", "line 4 is no prediction"),
        (evals / "none", "holds no rows"),
        (evals / "right", "given twice"),
    ]:
        code, _, err = call("compare", evals / "right", folder)
        assert code == 2 and sentence in err and err.count("error: ") == 1, err
    assert call("compare", evals / "right")[0] == 2


def test_only_a_former_comparison_is_overwritten(call: Call, evals: Path, tmp_path: Path) -> None:
    two = [evals / "right", evals / "random"]
    for _ in range(2):
        code, out, err = call("compare", *two, "--output", tmp_path / "mine")
        assert code == 0 and str(tmp_path / "mine") in out, err
    (tmp_path / "mine" / "notes.txt").write_text("precious", encoding="utf-8")
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    for taken in (tmp_path / "mine", tmp_path / "file", evals / "random", evals.parent):
        before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
        code, _, err = call("compare", *two, "--output", taken)
        assert code == 2 and "something else than a former comparison" in err
        assert before == sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    (tmp_path / "empty").mkdir()
    assert call("compare", *two, "--output", tmp_path / "empty")[0] == 0


def test_the_default_folder_tells_comparisons_apart(tmp_path: Path) -> None:
    adapter, base = tmp_path / "a" / "eval" / "adapter", tmp_path / "a" / "eval" / "base"
    other = tmp_path / "b" / "eval" / "adapter"
    assert default_output([adapter, base]) == tmp_path / "a" / "compare" / "adapter--base"
    assert default_output([adapter, other]) == tmp_path / "a" / "compare" / "adapter--b_adapter"
    many = [tmp_path / "a" / "eval" / f"{'x' * 60}{i}" for i in range(5)]
    names = {default_output(many[:4]).name, default_output(many).name, default_output([*many[1:], many[0]]).name}
    assert len(names) == 3 and max(map(len, names)) < 140


def test_runs_of_one_name_are_told_apart_by_their_paths(evals: Path, tmp_path: Path) -> None:
    twin = write(tmp_path / "elsewhere" / "run" / "eval" / "right", SAID)
    result = compare([evals / "right", twin]).record
    assert [one["name"] for one in result["evaluations"]] == [str(evals / "right"), str(twin)]


def test_a_single_premise_says_nothing_about_others(tmp_path: Path) -> None:
    same = dict.fromkeys(range(60), "p")
    folders = [write(tmp_path / "r" / "eval" / n, said, premise=same) for n, said in (("a", GOLD), ("b", SAID))]
    assert compare(folders).record["pairs"][0]["difference_ci95"] == (-1.0, 1.0)


def test_the_report_names_every_evaluation_and_pair(evals: Path) -> None:
    write(evals / "third", SAID)
    text = compare([evals / name for name in ("right", "random", "third")]).report()
    for words in (
        "run/right less run/random",
        "run/random less run/third: +0.00%",
        "p = 1",
        "3 pairs are not corrected",
    ):
        assert words in text


def test_a_comparison_has_its_figures_as_attributes(evals: Path) -> None:
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


def test_a_folder_that_is_not_there_as_output_parent_is_made(evals: Path, tmp_path: Path) -> None:
    folder = compare([evals / "right", evals / "random"], tmp_path / "x" / "y").folder
    assert sorted(path.name for path in folder.iterdir()) == ["compare.json", "differences.jsonl"]
    with pytest.raises(RunError):
        compare([evals / "right", evals / "right"], tmp_path / "x" / "z")
