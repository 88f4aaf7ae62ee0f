"""Lines and quotation marks of files that could be read in two ways: the right one is certain, or it is asked for."""

from pathlib import Path
from typing import Any

import pytest

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.data.examples import load_examples
from toolkit.data.file_reader import stream_file
from toolkit.data.group_split import split_calibration, split_evaluation
from toolkit.data.prediction_input import open_input
from toolkit.errors import DataError
from toolkit.recipe.data_section import FormatSection
from toolkit.recipe.loading import build_recipe


def recipe_for(path: Path, **columns: str) -> Any:
    return build_recipe(
        {
            "task": {"labels": ["pos", "neg"], "system": None, "user": "{text}"},
            "data": {"train": {"path": str(path)}, "eval": {"path": str(path)}, "columns": columns},
            "model": {"name": "embedded:tiny-llama-fr"},
        },
        "test",
    )


def test_first_row_is_not_a_header(tmp_path: Path) -> None:
    """The columns are mapped to the values of the first row, which would be lost."""
    path = tmp_path / "rows.csv"
    path.write_text("Super film,pos\nTrop nul,neg\nBeau film,pos\n", encoding="utf-8")
    recipe = recipe_for(path, text="Super film", label="pos")
    with pytest.raises(DataError, match="'pos' is the name of the label column and also a label") as error:
        load_examples(recipe, recipe.data.train)
    assert "header: false" in (error.value.hint or "")


def test_repeated_header_is_an_invalid_label(tmp_path: Path) -> None:
    """Files that were joined have their header again, which is a row to remove and no reason for `header: false`."""
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nSuper film,pos\ntext,label\nTrop nul,neg\n", encoding="utf-8")
    recipe = recipe_for(path)
    with pytest.raises(DataError, match="row 2: label 'label' is not one of pos, neg"):
        load_examples(recipe, recipe.data.train)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", 'text;label\n"Il a dit \\"oui\\", enfin";pos\n"Nul";neg\n', "most fields with a quotation mark"),
        (
            "b.csv",
            'text,label\n"Il dit "non"",neg\n"Nul",pos\n"Beau",pos\n',
            "most fields with a quotation mark",
        ),
        ("c.tsv", 'text\tlabel\n"Oui."\tpos\nNon "pas"\tneg\n', "some fields with a quotation mark are enclosed"),
    ],
)
def test_contradictory_quotation_marks_are_asked_for(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=sentence):
        list(stream_file(tmp_path / name, columns=("text", "label")))
    for quoting in ("none",):
        given = FormatSection(quoting=quoting, delimiter={"a": ";", "b": ",", "c": "\t"}[name[0]])
        assert len(list(stream_file(tmp_path / name, given))) == text.count("\n") - 1


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_utf_8_is_not_read_as_another_encoding(tmp_path: Path, encoding: str) -> None:
    path, given = tmp_path / "rows.csv", FormatSection(encoding=encoding)
    path.write_text("text\nÇa a été très bon\n", encoding="utf-8")
    with pytest.raises(DataError, match="is UTF-8 text with accents"):
        list(stream_file(path, given))
    path.write_text("text\nÇa a été très bon\n", encoding=encoding)
    assert next(iter(stream_file(path, given))) == {"text": "Ça a été très bon"}


def test_header_scored_as_a_row_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("Label,Review\n1,Un livre bon\n", encoding="utf-8")
    given = FormatSection(header=False, names=("class", "text"))
    open_input(path, given, ["text"])
    assert "its first line is scored as a row: 'Label', 'Review'" in caplog.text


def test_texts_by_line_need_no_header_key(tmp_path: Path) -> None:
    """A run that was trained on a file without a header predicts one text per line, too."""
    path = tmp_path / "texts.txt"
    path.write_text("Un livre bon\nUn autre\n", encoding="utf-8")
    source = open_input(path, FormatSection(header=False, names=("class", "text")), ["text"])
    assert [row["text"] for row in source.rows()] == ["Un livre bon", "Un autre"]


def test_evaluation_share_passes_over_large_groups() -> None:
    rows = [nli(str(i), "A" if i < 36 else f"B{i % 2}", f"h{i}", "neutral") for i in range(40)]
    for seed in range(6):
        train, evaluation = split_evaluation(rows, 0.05, seed)
        assert len(evaluation) == 2 and len(train) == 38
    with pytest.raises(DataError, match="would hold out none of the 36 training rows"):
        split_evaluation(rows[:36], 0.2, 1)


def test_calibration_share_draws_until_it_is_reached() -> None:
    rows: list[Example] = [nli(str(i), f"p{i // 3}", f"h{i}", "neutral") for i in range(30)]
    _, held_out = split_calibration(rows, 0.2, 1)
    assert len(held_out) == 6
