"""A row as an encoder reads it: premise and hypothesis as a sentence pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.example import Example
from toolkit.errors import ModelError
from toolkit.prompts.encoder import PromptEncoder
from toolkit.prompts.tokenizer import encode_pair
from toolkit.prompts.truncation import encode_rows, fit_premise
from toolkit.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A row as an encoder reads it.

    Args:
        ids: token ids of the tokenizer's sentence pair, its special tokens included.
        segments: for each token, 0 or 1: to which text it belongs (token_type_ids); None where the model has no such
            input.
        label: index of the label.
        shortened: whether the premise lost its end to fit into `max_seq_length`.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...] | None
    label: int
    shortened: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def trained(self, loss_on: str) -> int:
        """How many predictions are trained: the label."""
        return 1

    def inputs(self) -> dict[str, list[int]]:
        """The row in the words of a model's inputs."""
        segments = {} if self.segments is None else {"token_type_ids": list(self.segments)}
        return {"input_ids": list(self.ids), **segments}


class PairEncoder:
    """Turns rows into an encoder's sentence pairs: the premise first, the hypothesis second.

    Args:
        tokenizer: a fast tokenizer.
        labels: the classes; a row's label is its place among them.
        max_seq_length: tokens per row, special tokens included.

    Raises:
        ModelError: the tokenizer cannot pad.
    """

    def __init__(self, tokenizer: Any, labels: Sequence[str], max_seq_length: int) -> None:
        if tokenizer.pad_token_id is None:
            raise ModelError("The model's tokenizer has no padding token, so its rows cannot be read together.")
        self.tokenizer = tokenizer
        self.labels = tuple(labels)
        self.max_seq_length = max_seq_length
        self._has_segments = "token_type_ids" in tokenizer.model_input_names

    def pair(self, example: Example) -> EncodedPair:
        """One row; only its premise is shortened, at its end.

        Raises:
            DataError: the row does not fit even without its premise, or with nothing of it.
        """

        def encode(premise: str) -> list[tuple[int, int]]:
            return encode_pair(self.tokenizer, premise.strip(), example.hypothesis.strip())

        tokens, shortened = fit_premise(example.premise, encode, self.max_seq_length)
        ids, segments = zip(*tokens, strict=True)
        return EncodedPair(ids, segments if self._has_segments else None, self.labels.index(example.label), shortened)

    def question(self, premise: str, hypothesis: str) -> EncodedPair:
        """A row without a label, see `pair`; it stands as if it had the first one."""
        return self.pair(Example("", premise, hypothesis, self.labels[0]))

    def encode(self, examples: Sequence[Example]) -> list[EncodedPair]:
        """Encode rows in order.

        Raises:
            DataError: naming the rows in which `max_seq_length` leaves no room for the hypothesis.
        """
        return encode_rows(examples, self.pair, self.max_seq_length, "the hypothesis")

    def show(self, row: EncodedPair, loss_on: str) -> tuple[str, str]:
        """A row as text: what is read, and the label that is trained."""
        text = self.tokenizer.decode(row.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return f"{text} ", self.labels[row.label]


RowEncoder = PromptEncoder | PairEncoder


def row_encoder(tokenizer: Any, recipe: Recipe, shots: Sequence[Example] = ()) -> RowEncoder:
    """What turns rows into token ids for the recipe's kind of model; see the two classes for what they refuse."""
    if recipe.model.kind == "encoder":
        return PairEncoder(tokenizer, recipe.task.labels, recipe.model.max_seq_length)
    return PromptEncoder(tokenizer, recipe.task, recipe.model.max_seq_length, shots)
