"""Checking and tokenization of the rows of a file to classify."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from toolkit.data.columns import Row, has_column
from toolkit.data.examples import row_inputs
from toolkit.data.messages import list_names, similar_name_hint
from toolkit.data.prediction_input import PredictionInput
from toolkit.data.prediction_writers import added_columns
from toolkit.errors import DataError
from toolkit.inference.classifier import Classifier
from toolkit.prompts.truncation import encode_or_error
from toolkit.recipe.inputs import RowColumns
from toolkit.utils.progress import progress_bar

_SHOWN_ROWS = 3
"""The number of invalid rows that a message describes. The others are only counted."""
_HINT = "Fix or remove these rows."


class EncodedInput:
    """The rows of a file as token ids, read one chunk at a time.

    Args:
        classifier: The classifier that scores the rows.
        columns: The columns of the inputs.
        source: The file.
    """

    def __init__(self, classifier: Classifier, columns: RowColumns, source: PredictionInput) -> None:
        self._columns = columns
        self._source = source
        self._recipe = classifier.run.recipe
        self._row_tokenizer = classifier.row_tokenizer
        self._chunk_rows = classifier.chunk_rows
        self._reserved = added_columns(source.kind, classifier.classes_)

    def check(self) -> tuple[int, int]:
        """Check all rows, and return the number of rows and of truncated rows.

        Raises:
            DataError: If a column is missing, or if rows cannot be scored. The message names the first of these rows.
        """
        self._check_columns()
        rows = self._source.rows()
        total = shortened = invalid = 0
        problems: list[str] = []
        with progress_bar(desc="checking", unit="row") as bar:
            while chunk := self._encode(list(islice(rows, self._chunk_rows))):
                for number, row in enumerate(chunk, total + 1):
                    if not isinstance(row, DataError):
                        shortened += row.shortened
                        continue
                    invalid += 1
                    if len(problems) < _SHOWN_ROWS:
                        problems.append(f"row {number}: {row}")
                total += len(chunk)
                bar.update(len(chunk))
        if problems:
            count = f" ({invalid} rows cannot be scored)" if invalid > 1 else ""
            raise DataError(f"{self._source.path}, {'; '.join(problems)}{count}.", hint=_HINT)
        return total, shortened

    def chunks(self, start: int) -> Iterator[list[Any]]:
        """Yield the rows after the first `start` rows, in chunks for `Classifier.score_labels`.

        Raises:
            DataError: If a row cannot be scored, because the file has changed since it was checked.
        """
        rows = islice(self._source.rows(), start, None)
        while chunk := self._encode(list(islice(rows, self._chunk_rows))):
            for number, row in enumerate(chunk, start + 1):
                if isinstance(row, DataError):
                    raise DataError(f"{self._source.path}, row {number}: {row}.", hint=_HINT)
            start += len(chunk)
            yield chunk

    def _encode(self, rows: Sequence[Row]) -> list[Any]:
        """Return each row as token ids, or the error of a row that cannot be scored."""
        inputs = [encode_or_error(self._read, row) for row in rows]
        valid = [texts for texts in inputs if not isinstance(texts, DataError)]
        encoded = iter(self._row_tokenizer.encode_batch(valid))
        return [texts if isinstance(texts, DataError) else next(encoded) for texts in inputs]

    def _read(self, row: Row) -> dict[str, str]:
        if conflicts := [column for column in self._reserved if column in row]:
            raise DataError(f"it already has a column {conflicts[0]!r}")
        return row_inputs(self._recipe, self._columns, row)

    def _check_columns(self) -> None:
        names = self._source.read_names()
        first_row = next(self._source.rows())
        for name, column in self._columns.inputs.items():
            if not has_column([first_row], column):
                section = "data.eval.columns" if name in self._recipe.data.eval.columns else "data.columns"
                example = json.dumps({f"{section}.{name}": "COLUMN"}, ensure_ascii=False)
                raise DataError(
                    f"{self._source.path} has no column {column!r}; its columns are {list_names(map(repr, names))}.",
                    hint=similar_name_hint(names, column)
                    or f"Name the column with overrides={example}. If the first line is data, set "
                    "data.eval.format.header to false.",
                )
