"""What data say cannot steer the terminal on which it is shown."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.cli.command_line import run_command
from toolkit.data.example import Example
from toolkit.errors import DataError
from toolkit.evaluation.invalid_answers import invalid_answer_metrics
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.evaluation.text_report import text_report
from toolkit.planning.preflight import run_preflight
from toolkit.recipe.schema import Recipe
from toolkit.utils.terminal import escape_control_characters

EVIL = "a\x1b[31m\u202eb"
SHOWN = r"a\x1b[31m\u202eb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("\x00\x08\r\x7f\x9b", r"\x00\x08\x0d\x7f\x9b"),
        ("\u061c\u200e\u200f\u2066\u2069", r"\u061c\u200e\u200f\u2066\u2069"),
        ("L'été\n\tà 3 °C, 👩\u200d👧 שלום", "L'été\n\tà 3 °C, 👩\u200d👧 שלום"),
    ],
)
def test_controls_and_writing_directions_are_escaped_and_all_else_is_left(text: str, shown: str) -> None:
    assert escape_control_characters(text) == shown


def test_an_error_that_quotes_a_value_shows_it_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise DataError(f"row {EVIL} is bad.", hint=f"Mend {EVIL}.")

    def not_there() -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"/nowhere/{EVIL}")

    assert run_command(refuse) == 2
    assert capsys.readouterr().err == f"error: row {SHOWN} is bad.\nhint: Mend {SHOWN}.\n"
    run_command(not_there)
    assert SHOWN in (err := capsys.readouterr().err) and "\x1b" not in err


@pytest.mark.parametrize("color", [True, False])
def test_the_preflights_examples_are_escaped_and_their_ids_are_not_changed(
    make_recipe: Callable[..., Recipe], tmp_path: Path, color: bool
) -> None:
    labels = ["entailment", "neutral", "contradiction"]
    rows = [{"premise": f"{EVIL}{i}", "hypothesis": f"h{i}", "label": labels[i % 3]} for i in range(6)]
    for name, part in (("train", rows[:3]), ("eval", rows[3:])):
        (tmp_path / name).with_suffix(".jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in part), encoding="utf-8"
        )
    files = [f"data.{name}={{path: {tmp_path / name}.jsonl}}" for name in ("train", "eval")]
    before = run_preflight(make_recipe(*files, "data.columns.id=null", "evaluation.slice_by=[]"))
    said = before.examples(color=color)
    assert f"{SHOWN}0" in said and "\u202e" not in said
    assert said.count("\x1b") == (6 if color else 0)  # the toolkit's own colors
    assert EVIL in before.encoder.decode(before.train_rows[0].prompt)


def test_a_slices_value_is_escaped_in_the_report_of_an_evaluation() -> None:
    examples = [Example("1", "p", "h", "a", slices={"genre": EVIL})]
    said = Predictions(("a", "b"), ["a"], None, ["a"])
    metrics = compute_metrics(examples, said) | invalid_answer_metrics(examples, said)
    more = {
        "n": 1,
        "labels": ["a", "b"],
        "baselines": {},
        "warnings": [],
        "calibration": None,
        "speed": {"examples_per_second": 1.0},
    }
    text = text_report([row.label for row in examples], [label or "" for label in said.predicted], metrics | more)
    assert SHOWN in text and "\x1b" not in text
