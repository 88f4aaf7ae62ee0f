"""Rows that fit: where one is too long its premise gives way, never its hypothesis or its answer."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

from toolkit.errors import DataError
from toolkit.task import Example

_LONG_LIST = 20_000
T = TypeVar("T")


def fit_premise(premise: str, encode: Callable[[str], list[T]], room: int) -> tuple[list[T], bool]:
    """The row's tokens with as many of the premise's first words as fit, and whether any word was lost.

    Raises:
        DataError: the row does not fit even without its premise.
    """
    tokens = encode(premise)
    if len(tokens) <= room:
        return tokens, False
    words = premise.split()
    fits, too_many = 0, len(words)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if len(encode(" ".join(words[:middle]))) <= room:
            fits = middle
        else:
            too_many = middle
    tokens = encode(" ".join(words[:fits]))
    if len(tokens) > room:
        raise DataError(f"needs {len(tokens)} tokens without its premise, but {room} are left for it")
    return tokens, True


def encode_rows(
    examples: Sequence[Example], encode: Callable[[Example], T], max_seq_length: int, what: str, remedy: str = ""
) -> list[T]:
    """Encode rows in order.

    Raises:
        DataError: naming the rows in which `max_seq_length` leaves no room for `what`.
    """
    rows, refused = [], []
    for example in tqdm(examples, desc="tokenising", unit="row", disable=len(examples) < _LONG_LIST):
        try:
            rows.append(encode(example))
        except DataError as error:
            refused.append(f"{example.id} {error}")
    if refused:
        raise DataError(
            f"model.max_seq_length {max_seq_length} is too short for {what} in {len(refused)} rows; "
            f"row {'; row '.join(refused[:3])}.",
            hint=f"Raise model.max_seq_length{remedy}.",
        )
    return rows
