"""Tokenization of rows for encoders: one text, or two texts as a sentence pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.example import Example
from toolkit.errors import DataError, ModelError
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import check_spaces_survive, encode_for_encoder, encode_rows_for_encoder
from toolkit.prompts.truncation import encode_or_error, encode_rows, truncate_input
from toolkit.recipe.schema import Recipe, TaskSection


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A row as one text or a sentence pair for an encoder.

    Args:
        ids: The token ids of the texts, including special tokens.
        segments: The text that each token belongs to, 0 or 1 (token_type_ids); None if the model has no such input.
        label: The index of the label.
        shortened: Whether the end of an input was cut off to fit into `max_seq_length`.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...] | None
    label: int
    shortened: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def count_targets(self, loss_on: str) -> int:
        """Return the number of predictions that are trained on: one, the label."""
        return 1

    def inputs(self) -> dict[str, list[int]]:
        """Return the row as arguments of the model."""
        segments = {} if self.segments is None else {"token_type_ids": list(self.segments)}
        return {"input_ids": list(self.ids), **segments}


class PairTokenizer:
    """A converter from rows to token ids for an encoder: of one text, or of a sentence pair.

    Args:
        tokenizer: A fast tokenizer.
        task: The inputs, in the order in which the model reads them, and the labels, in the order of their indices.
        max_seq_length: The maximum number of tokens per row, including special tokens.

    Raises:
        ModelError: If the tokenizer has no padding token, or ignores spaces.
    """

    def __init__(self, tokenizer: Any, task: TaskSection, max_seq_length: int) -> None:
        if tokenizer.pad_token_id is None:
            raise ModelError("The model's tokenizer has no padding token, so its rows cannot be batched.")
        check_spaces_survive(tokenizer)
        self.tokenizer = tokenizer
        self.task = task
        self.labels = task.labels
        self.max_seq_length = max_seq_length
        self._has_segments = "token_type_ids" in tokenizer.model_input_names

    def encode_row(self, example: Example) -> EncodedPair:
        """Encode one row, cutting off the end of `task.truncated_input` if it is too long.

        Raises:
            DataError: If the row is still too long after the input has been truncated as far as possible.
        """
        cut = self.task.truncated_input

        def encode(text: str) -> list[tuple[int, int]]:
            texts = {**example.inputs, cut: text}
            return encode_for_encoder(self.tokenizer, [texts[name].strip() for name in self.task.inputs])

        tokens, shortened = truncate_input(cut, example.inputs[cut], encode, self.max_seq_length)
        return self._make_pair(tokens, self.labels.index(example.label), shortened)

    def _make_pair(self, tokens: Sequence[tuple[int, int]], label: int, shortened: bool) -> EncodedPair:
        ids, segments = zip(*tokens, strict=True)
        return EncodedPair(ids, segments if self._has_segments else None, label, shortened)

    def encode_unlabeled(self, inputs: Mapping[str, str]) -> EncodedPair:
        """Encode a row without a label, see `encode_row`; its `label` is 0 and has no meaning."""
        return self.encode_row(Example("", inputs, self.labels[0]))

    def encode_batch(self, rows: Sequence[Mapping[str, str]]) -> list[EncodedPair | DataError]:
        """Encode rows as `encode_unlabeled` does, but faster. For a row that cannot be encoded, return its error."""
        texts = [[inputs[name].strip() for name in self.task.inputs] for inputs in rows]
        return [
            self._make_pair(tokens, 0, False)
            if len(tokens) <= self.max_seq_length
            else encode_or_error(self.encode_unlabeled, inputs)
            for tokens, inputs in zip(encode_rows_for_encoder(self.tokenizer, texts), rows, strict=True)
        ]

    def encode(self, examples: Sequence[Example]) -> list[EncodedPair]:
        """Encode rows with their labels, in order.

        Raises:
            DataError: If `max_seq_length` leaves no room for the input that is not truncated. The message names the
                rows.
        """
        kept = [name for name in self.task.inputs if name != self.task.truncated_input]
        return encode_rows(examples, self.encode_row, self.max_seq_length, f"the {kept[0]}" if kept else "any text")

    def decode_row(self, row: EncodedPair, loss_on: str) -> tuple[str, str]:
        """Return a row as two texts: the text that is read, and the label that is trained on."""
        text = self.tokenizer.decode(row.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return f"{text} ", self.labels[row.label]


RowTokenizer = PromptTokenizer | PairTokenizer


def make_row_tokenizer(tokenizer: Any, recipe: Recipe, shots: Sequence[Example] = ()) -> RowTokenizer:
    """Return the tokenizer of rows for the recipe's kind of model.

    Args:
        tokenizer: The model's fast tokenizer.
        recipe: The recipe.
        shots: Labeled examples that precede each row; decoders only.

    Raises:
        RecipeError: If the position of the answer in the chat template cannot be determined.
        ModelError: If the tokenizer cannot be used, see `PromptTokenizer` and `PairTokenizer`.
    """
    if recipe.model.kind == "encoder":
        return PairTokenizer(tokenizer, recipe.task, recipe.model.max_seq_length)
    return PromptTokenizer(tokenizer, recipe.task, recipe.model.max_seq_length, shots)
