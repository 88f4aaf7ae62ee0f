"""Truncation of rows that are too long: only one input is shortened, never another input or the answer."""

from collections.abc import Callable, Sequence
from typing import TypeVar
from unicodedata import category

from toolkit.data.example import Example
from toolkit.errors import DataError
from toolkit.utils.progress import progress_bar

_MIN_ROWS_FOR_PROGRESS = 20_000
R = TypeVar("R")
T = TypeVar("T")


def truncate_input(name: str, text: str, encode: Callable[[str], list[T]], max_tokens: int) -> tuple[list[T], bool]:
    """Encode a row, cutting off the end of one of its inputs if it is too long.

    The text is cut between words. If not even its first word fits, for example a long URL, that word is cut.

    Args:
        name: The name of the input, for the error message.
        text: The text of the input.
        encode: A function that returns the tokens of the row with another text in this input.
        max_tokens: The number of tokens that the row can have.

    Returns:
        The tokens of the row, and whether the text was shortened.

    Raises:
        DataError: If the row is too long without the text, or no character of the text fits.
    """
    tokens = encode(text)
    if len(tokens) <= max_tokens:
        return tokens, False
    words = text.split()
    kept = _largest_count(len(words), lambda count: len(encode(" ".join(words[:count]))) <= max_tokens)
    if kept or not words:
        beginning = " ".join(words[:kept])
    else:
        ends = _character_ends(words[0])
        kept = _largest_count(len(ends) + 1, lambda count: len(encode(words[0][: ends[count - 1]])) <= max_tokens)
        beginning = words[0][: ends[kept - 1]] if kept else ""
    tokens = encode(beginning)
    if len(tokens) > max_tokens:
        raise DataError(f"needs {len(tokens)} tokens without its {name}, but at most {max_tokens} fit")
    if words and not beginning:
        raise DataError(
            f"needs {len(tokens)} of the {max_tokens} tokens without its {name}, which leaves no room for the {name}"
        )
    return tokens, True


def _largest_count(upper: int, fits: Callable[[int], bool]) -> int:
    """Return the largest count below `upper` that fits (binary search), or 0, which is not tested."""
    lower = 0
    while upper - lower > 1:
        middle = (lower + upper) // 2
        if fits(middle):
            lower = middle
        else:
            upper = middle
    return lower


def _character_ends(word: str) -> list[int]:
    """Return the positions at which a word can be cut, in code points."""
    # Not before a combining mark (Unicode category M), which belongs to the character before it.
    return [end for end in range(1, len(word)) if not category(word[end]).startswith("M")] + [len(word)]


def encode_or_error(encode: Callable[[R], T], row: R) -> T | DataError:
    """Return an encoded row, or the error of a row that cannot be encoded."""
    try:
        return encode(row)
    except DataError as error:
        return error


def encode_rows(
    examples: Sequence[Example],
    encode: Callable[[Example], T],
    max_seq_length: int,
    required_text: str,
    remedy: str = "",
) -> list[T]:
    """Encode rows in order.

    Args:
        examples: The rows.
        encode: A function that encodes one row.
        max_seq_length: The value of model.max_seq_length, for the error message.
        required_text: The part of a row that is never cut, for the error message.
        remedy: Further advice, appended to the hint of the error.

    Raises:
        DataError: If rows have no room for `required_text`. The message names them.
    """
    rows, errors = [], []
    for example in progress_bar(
        examples, desc="tokenizing", unit="row", disable=len(examples) < _MIN_ROWS_FOR_PROGRESS
    ):
        try:
            rows.append(encode(example))
        except DataError as error:
            errors.append(f"{example.id} {error}")
    if errors:
        raise DataError(
            f"model.max_seq_length {max_seq_length} is too short for {required_text} in {len(errors)} rows; "
            f"row {'; row '.join(errors[:3])}.",
            hint=f"Raise model.max_seq_length{remedy}.",
        )
    return rows
