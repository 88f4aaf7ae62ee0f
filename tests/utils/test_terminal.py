"""Text from data cannot control the terminal on which it is printed."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nli import nli
from toolkit.cli.command_line import run_command
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
def test_control_and_bidi_characters_are_escaped(text: str, shown: str) -> None:
    assert escape_control_characters(text) == shown


def test_error_messages_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def raise_data_error() -> None:
        raise DataError(f"row {EVIL} is bad.", hint=f"Fix {EVIL}.")

    def raise_file_not_found() -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"/nowhere/{EVIL}")

    assert run_command(raise_data_error) == 2
    assert capsys.readouterr().err == f"error: row {SHOWN} is bad.\nhint: Fix {SHOWN}.\n"
    run_command(raise_file_not_found)
    assert SHOWN in (err := capsys.readouterr().err) and "\x1b" not in err


@pytest.mark.parametrize("color", [True, False])
def test_preflight_examples_are_escaped(make_recipe: Callable[..., Recipe], tmp_path: Path, color: bool) -> None:
    labels = ["entailment", "neutral", "contradiction"]
    rows = [{"premise": f"{EVIL}{i}", "hypothesis": f"h{i}", "label": labels[i % 3]} for i in range(6)]
    for name, split in (("train", rows[:3]), ("eval", rows[3:])):
        (tmp_path / name).with_suffix(".jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in split), encoding="utf-8"
        )
    files = [f"data.{name}={{path: {tmp_path / name}.jsonl}}" for name in ("train", "eval")]
    preflight = run_preflight(make_recipe(*files, "data.columns.id=null", "evaluation.slice_by=[]"))
    text = preflight.examples(color=color)
    assert f"{SHOWN}0" in text and "\u202e" not in text
    assert text.count("\x1b") == (6 if color else 0)  # the toolkit's own colors
    assert EVIL in preflight.row_tokenizer.decode(preflight.train_rows[0].prompt)


def test_slice_values_are_escaped_in_reports() -> None:
    examples = [nli("1", "p", "h", "a", slices={"genre": EVIL})]
    predictions = Predictions(("a", "b"), ["a"], None, ["a"])
    metrics = compute_metrics(examples, predictions) | invalid_answer_metrics(examples, predictions)
    other_metrics = {
        "n": 1,
        "labels": ["a", "b"],
        "baselines": {},
        "warnings": [],
        "calibration": None,
        "speed": {"examples_per_second": 1.0},
    }
    text = text_report(metrics | other_metrics)
    assert SHOWN in text and "\x1b" not in text
