"""The conversion of rows to examples: columns and labels are mapped, and every row is checked."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from toolkit.data.columns import Row, get_column, has_column, looks_like_data
from toolkit.data.delimited import DEFAULT_DELIMITERS, header_hint
from toolkit.data.example import Example
from toolkit.data.label_column import NO_LABEL, LabelColumn, find_rare_labels
from toolkit.data.messages import list_names, similar_name_hint
from toolkit.data.sources import describe, read_rows
from toolkit.data.values import check_text, optional_text
from toolkit.errors import DataError
from toolkit.recipe.data_paths import data_suffix
from toolkit.recipe.data_section import Source
from toolkit.recipe.inputs import RowColumns
from toolkit.recipe.labels import label_texts, normalize_label
from toolkit.recipe.schema import Recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedRows:
    """The checked rows of a source.

    Args:
        examples: The rows.
        left_out: The number of rows that were left out, by the value of their label; see `data.label_map` and
            `data.unlabeled`.
    """

    examples: list[Example]
    left_out: dict[str, int] = field(default_factory=dict)


def load_examples(
    recipe: Recipe, source: Source, *, is_training: bool = False, is_external: bool = False
) -> list[Example]:
    """Read a source, check each row and return the examples, see `load_rows`."""
    return load_rows(recipe, source, is_training=is_training, is_external=is_external).examples


def load_rows(recipe: Recipe, source: Source, *, is_training: bool = False, is_external: bool = False) -> LoadedRows:
    """Read a source and check each row.

    Args:
        recipe: The recipe, which names the columns and labels.
        source: The source to read.
        is_training: Whether these are training rows, which must contain every label and need no columns to slice by.
        is_external: Whether the recipe was not written for these rows, so that the columns for the id and the slices
            may be missing.

    Raises:
        DataError: If a column is missing or rows are invalid. The message names the column, or the first rows and the
            reasons.
    """
    columns = recipe.columns_of(source)
    _check_shared_columns(columns)
    slices = () if is_training else recipe.evaluation.slice_by
    optional = [*([columns.id] if columns.id else []), *slices]
    required = [*columns.inputs.values(), columns.label, *([] if is_external else optional)]
    rows, names = read_rows(source, required)
    if missing := [column for column in required if not has_column(rows, column)]:
        raise DataError(
            f"{describe(source)} has no column {missing[0]!r}; its columns are {list_names(map(repr, names))}.",
            hint=_columns_hint(recipe, columns, names, missing[0]),
        )
    if normalize_label(columns.label) in label_texts(recipe.task.labels, source.label_map or recipe.data.label_map):
        _check_first_row(source, names, columns.label, rows)
    if is_external:
        slices = tuple(column for column in slices if has_column(rows, column))
    # Rows that are split later are trained on, too.
    is_trained_on = is_training or (recipe.data.shares_rows and source.path == recipe.data.train.path)
    reader = _RowReader(recipe, columns, LabelColumn.of(recipe, source, is_training=is_trained_on), slices)
    loaded = reader.read_all(rows, describe(source))
    if is_trained_on and (problem := find_rare_labels([example.label for example in loaded.examples])):
        raise DataError(
            f"{describe(source)} {problem}.",
            hint=f"Add rows for each label, or name another column than {columns.label!r} in data.columns.label.",
        )
    if is_training:
        check_all_labels_occur(recipe, loaded.examples, describe(source))
    for column in slices:
        if absent := sum(column not in example.slices for example in loaded.examples):
            logger.warning(
                "WARNING: %s has %d rows without a value in column %r. They are in none of its slices.",
                describe(source), absent, column,
            )  # fmt: skip
    return loaded


def _check_first_row(source: Source, names: Sequence[str], label: str, rows: Sequence[Row]) -> None:
    """Check that the first row was not read as the header of a label column that is named like a label.

    Raises:
        DataError: If the name of the column occurs among its values.
    """
    is_delimited = data_suffix(source.path if isinstance(source.path, str) else source.path[0]) in DEFAULT_DELIMITERS
    if is_delimited and source.format.header and any(get_column(row, label) == label for row in rows):
        raise DataError(
            f"{describe(source)}: {label!r} is the name of the label column and also a label, so its first line looks "
            "like data, not like the names of columns.",
            hint=header_hint(names),
        )


def row_inputs(recipe: Recipe, columns: RowColumns, row: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each input of a row, without surrounding whitespace, in the order of the inputs.

    Raises:
        DataError: If one of them is invalid, see `check_text`.
    """
    return {
        name: check_text(columns.inputs[name], get_column(row, columns.inputs[name])) for name in recipe.task.inputs
    }


@dataclass(frozen=True)
class _RowReader:
    recipe: Recipe
    columns: RowColumns
    labels: LabelColumn
    slices: Sequence[str]

    def read_all(self, rows: Sequence[Row], source_name: str) -> LoadedRows:
        """Return the examples of all rows that are not left out.

        Raises:
            DataError: If rows are invalid, or if all are left out.
        """
        # All rows are checked before the error is raised, so that its message shows how many are invalid.
        examples: list[Example] = []
        problems: list[str] = []
        hints: list[str] = []
        left_out: Counter[str] = Counter()
        for number, row in enumerate(rows, 1):
            try:
                reason = self.labels.reason_to_leave_out(get_column(row, self.labels.name))
                if reason is None:
                    examples.append(self._read(row, number))
                else:
                    left_out[reason] += 1
            except DataError as error:
                problems.append(f"row {number}: {error}")
                hints.append(error.hint or "Fix the rows.")
        if problems:
            if problem := self._find_column_problem(rows):
                raise DataError(f"{source_name}: {problem[0]}.", hint=problem[1])
            total = f" ({len(problems)} rows are invalid)" if len(problems) > 1 else ""
            raise DataError(f"{source_name}, {'; '.join(problems[:3])}{total}.".replace("?.", "?"), hint=hints[0])
        if left_out:
            counts = ", ".join(
                f"{count:,} without a label" if value == NO_LABEL else f"{count:,} with the label {value!r:.80}"
                for value, count in left_out.items()
            )
            if not examples:
                raise DataError(
                    f"{source_name}: all {len(rows):,} rows are left out: {counts}.",
                    hint="Check data.columns.label, data.label_map and data.unlabeled.",
                )
            logger.info("left out    %s: %s", source_name, counts)
        return LoadedRows(examples, dict(left_out))

    def _read(self, row: Row, number: int) -> Example:
        inputs = row_inputs(self.recipe, self.columns, row)
        id_column = self.columns.id
        row_id = optional_text(id_column, get_column(row, id_column)) if id_column else None
        label, soft_label = self.labels.read_with_probabilities(get_column(row, self.labels.name))
        slice_values = {column: optional_text(column, get_column(row, column)) for column in self.slices}
        return Example(
            id=str(number) if row_id is None else row_id,
            inputs=inputs,
            label=label,
            slices={column: value for column, value in slice_values.items() if value is not None},
            soft_label=soft_label,
        )

    def _find_column_problem(self, rows: Sequence[Row]) -> tuple[str, str] | None:
        """Return a sentence and a hint if a whole column is invalid, which explains more than its first rows."""
        for name, column in self.columns.inputs.items():
            if len(rows) > 1 and all(_is_blank(column, get_column(row, column)) for row in rows):
                return (
                    f"column {column!r} is empty in all {len(rows):,} rows",
                    f"Map the input {name} to another column with data.columns: {{{name}: COLUMN}}.",
                )
        if problem := self.labels.find_problem([get_column(row, self.labels.name) for row in rows]):
            return problem, f"Name the column with the labels in data.columns.label; it is {self.labels.name!r} now."
        return None


def _is_blank(column: str, value: Any) -> bool:
    return not isinstance(value, (bytes, list, dict)) and optional_text(column, value) is None


def _check_shared_columns(columns: RowColumns) -> None:
    inputs = {column: name for name, column in columns.inputs.items()}
    if columns.label in inputs:
        raise DataError(
            f"data.columns names {columns.label!r} as the label and as a text, so the input would contain the answer.",
            hint="Give each its own column.",
        )
    if shared := [name for name, column in columns.inputs.items() if inputs[column] != name]:
        column = columns.inputs[shared[0]]
        raise DataError(
            f"The inputs {shared[0]} and {inputs[column]} share the column {column!r}.",
            hint="Give each its own column in data.columns.",
        )


def _columns_hint(recipe: Recipe, columns: RowColumns, names: Sequence[str], missing: str) -> str:
    if hint := similar_name_hint(names, missing):
        return hint
    if looks_like_data(names, label_texts(recipe.task.labels, recipe.data.label_map)):
        return header_hint(names)
    # Spreadsheets write semicolons in locales whose decimal separator is a comma. The header is then a single column.
    if len(names) == 1 and (delimiter := next((mark for mark in ";\t|" if mark in names[0]), None)):
        return (
            f"The columns are separated by {delimiter!r}. Set format.delimiter of the source, or save it with commas."
        )
    keys = {column: name for name, column in columns.inputs.items()} | {columns.label: "label"}
    if columns.id:
        keys[columns.id] = "id"
    if key := keys.get(missing):
        return f"Name the column in data.columns: {{{key}: COLUMN}}."
    return "Name the columns in evaluation.slice_by; evaluation.slice_by: [] leaves out the slices."


def with_task_labels(recipe: Recipe, examples: Sequence[Example]) -> list[Example]:
    """Return rows whose labels are all in the task: a merged label is replaced by the first of its labels.

    Rows are encoded with a label, but scoring reads only the prompt. See `evaluation.merge_labels`.
    """
    labels = {name: merged[0] for name, merged in recipe.evaluation.merge_labels.items()}
    spelling = label_texts(recipe.task.labels, labels)
    return [
        example
        if example.label in recipe.task.labels
        else replace(example, label=spelling[normalize_label(example.label)])
        for example in examples
    ]


def check_all_labels_occur(recipe: Recipe, examples: Sequence[Example], source_name: str) -> None:
    """Check that every label of the recipe occurs in the training rows.

    Args:
        recipe: The recipe, which names the labels.
        examples: The training rows.
        source_name: The origin of the rows, for the message.

    Raises:
        DataError: If a label has no row. The message names the first such label.
    """
    counts = Counter(example.label for example in examples)
    for example in examples:
        counts += Counter(dict(zip(recipe.task.labels, example.soft_label or (), strict=False)))
    if missing := [label for label in recipe.task.labels if not counts[label]]:
        raise DataError(
            f"{source_name} has no row with label {missing[0]!r}, so the model could not learn it.",
            hint="Remove the label from task.labels, add rows, or raise data.train.limit.",
        )


def label_counts(recipe: Recipe, examples: Sequence[Example]) -> dict[str, int]:
    """Return the number of rows of each label: task.labels in order, then merged labels that occur in the rows."""
    counts = Counter(example.label for example in examples)
    merged = [label for label in recipe.evaluation.merge_labels if counts[label]]
    return {label: counts[label] for label in (*recipe.task.labels, *merged)}


def fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 digest of the ids, texts and labels of the rows, in their order, as hexadecimal.

    The probabilities of soft labels are part of it.
    """
    # Each row is hashed as a JSON list. Joined texts would be the same if words moved from one field to the next.
    digest = hashlib.sha256()
    for example in examples:
        row: list[Any] = [example.id, *example.texts, example.label]
        if example.soft_label is not None:
            row.append(example.soft_label)
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
