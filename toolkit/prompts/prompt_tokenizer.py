"""Tokenization of rows for decoders, shared by training, scoring and export."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.example import Example
from toolkit.errors import DataError, ModelError
from toolkit.prompts.chat_template import ChatTemplate
from toolkit.prompts.messages import answer_text, prompt_messages
from toolkit.prompts.tokenizer import check_text_survives, tokenizer_errors
from toolkit.prompts.truncation import encode_rows, truncate_premise
from toolkit.recipe.schema import TaskSection


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row as token ids.

    Args:
        prompt: The token ids up to the answer.
        answer: The token ids that the model should write: the verbalizer and the end-of-turn token.
        shortened: Whether the end of the premise was cut off to fit into `max_seq_length`.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    shortened: bool = False

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    def count_targets(self, loss_on: str) -> int:
        """Return the number of tokens that are trained on."""
        # With full_text all but the first token, which has no preceding token to be predicted from.
        return len(self) - 1 if loss_on == "full_text" else len(self.answer)


class PromptTokenizer:
    """A converter from rows to token ids, for one tokenizer and one task.

    Prompt and answer are encoded separately, so no token spans the boundary between them. `ChatTemplate` decides what
    becomes a special token.

    Args:
        tokenizer: A fast tokenizer. It needs a chat template unless the task has one, which then replaces its own.
        task: The labels, verbalizers, messages, chat template and date.
        max_seq_length: The maximum number of tokens per row, with prompt and answer.
        shots: Labeled examples that precede each row as earlier turns, in this order.

    Raises:
        RecipeError: If the position of the answer in the template cannot be determined.
        ModelError: If the tokenizer has no chat template, or it encodes a prompt in pieces differently than as a whole.
    """

    def __init__(self, tokenizer: Any, task: TaskSection, max_seq_length: int, shots: Sequence[Example] = ()) -> None:
        self.tokenizer = tokenizer
        self.task = task
        self.max_seq_length = max_seq_length
        self.shots = tuple(shots)
        if task.chat_template:
            tokenizer.chat_template = task.chat_template  # it is then saved, merged and exported with the model
        check_text_survives(tokenizer)
        roles = [message["role"] for message in prompt_messages(task, "-", "-", self.shots)]
        self.template = ChatTemplate(tokenizer, [*roles, "assistant"], date_string=task.date_string)
        self.end_of_turn = self.template.end_of_turn
        self.label_ids: dict[str, tuple[int, ...]] = {
            label: (*self.template.encode_answer(answer_text(task, label)), self.end_of_turn) for label in task.labels
        }
        """The token ids of each label: those of its verbalizer and the end-of-turn token."""
        self._check_against_tokenizer()

    def _check_against_tokenizer(self) -> None:
        """Check on sample texts that our token ids equal those of the whole rendered prompt."""
        texts = ("L'été, il pleut.", "Il fait 3 °C dehors !")
        messages = prompt_messages(self.task, *texts, [Example(shot.id, *texts, shot.label) for shot in self.shots])
        our_ids = self._encode_messages(messages)
        rendered = self.template.render(messages, add_generation_prompt=True)
        with tokenizer_errors():
            tokenizer_ids = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        if our_ids != self.template.with_one_bos(tokenizer_ids):
            raise ModelError(
                "The chat template or the tokenizer changes the text of messages, so prompts would be encoded as "
                "different token ids from those that the model was trained on.",
                hint="Use a template that renders messages unchanged, and a byte-level BPE tokenizer.",
            )

    def _encode_messages(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.template.encode_prompt([message["content"] for message in messages])

    @property
    def stop_token_ids(self) -> list[int]:
        """The token ids that stop generation: the end-of-turn token, and EOS if it is another token."""
        # A base model, which was never trained to end a turn, can still write EOS.
        eos = self.tokenizer.eos_token_id
        return [self.end_of_turn] + [eos] * (eos not in (None, self.end_of_turn))

    @property
    def max_prompt_tokens(self) -> int:
        """The maximum number of tokens of a prompt."""
        # Room for the longest answer is reserved whatever the label. Otherwise the length of a shortened premise would
        # reveal the label.
        return self.max_seq_length - max(len(ids) for ids in self.label_ids.values())

    def _prompt_ids(self, premise: str, hypothesis: str) -> list[int]:
        return self._encode_messages(prompt_messages(self.task, premise, hypothesis, self.shots))

    def encode_prompt(self, premise: str, hypothesis: str) -> tuple[tuple[int, ...], bool]:
        """Encode a row up to the answer.

        Returns:
            The token ids, and whether the end of the premise was cut off to make them fit.

        Raises:
            DataError: If the row is still too long after its premise has been truncated as far as possible.
        """
        ids, shortened = truncate_premise(
            premise, lambda text: self._prompt_ids(text, hypothesis), self.max_prompt_tokens
        )
        return tuple(ids), shortened

    def encode_unlabeled(self, premise: str, hypothesis: str) -> EncodedRow:
        """Encode a row without a label, see `encode_prompt`."""
        ids, shortened = self.encode_prompt(premise, hypothesis)
        return EncodedRow(ids, (), shortened)

    def encode(self, examples: Sequence[Example]) -> list[EncodedRow]:
        """Encode rows with their labels, in order.

        Raises:
            DataError: If `max_seq_length` leaves no room for the answer or the shots. The message names the rows.
        """
        # Rows are never truncated to fit more shots, because results for different numbers of shots would then not be
        # comparable.
        too_long_rows = [example for example in examples if self.shots and not self._fits(example)]
        if too_long_rows:
            raise self._too_many_shots_error(too_long_rows)

        def encode_row(example: Example) -> EncodedRow:
            ids, shortened = self.encode_prompt(example.premise, example.hypothesis)
            return EncodedRow(ids, self.label_ids[example.label], shortened)

        return encode_rows(examples, encode_row, self.max_seq_length, "the answer", ", or shorten task.system")

    def _fits(self, row: Example) -> bool:
        return len(self._prompt_ids(row.premise, row.hypothesis)) <= self.max_prompt_tokens

    def _too_many_shots_error(self, rows: Sequence[Example]) -> DataError:
        lengths = [len(self._prompt_ids(example.premise, example.hypothesis)) for example in rows]
        needed = max(lengths)
        longest = rows[lengths.index(needed)]
        fitting_shots = 0
        for fitting_shots in reversed(range(len(self.shots))):
            with_fewer_shots = PromptTokenizer(
                self.tokenizer, self.task, self.max_seq_length, self.shots[:fitting_shots]
            )
            if len(with_fewer_shots._prompt_ids(longest.premise, longest.hypothesis)) <= self.max_prompt_tokens:
                break
        sufficient = needed + self.max_seq_length - self.max_prompt_tokens
        return DataError(
            f"model.max_seq_length {self.max_seq_length} is too short for {len(self.shots)} shots in {len(rows)} "
            f"rows (row {longest.id} needs {needed} tokens before the answer); {fitting_shots or 'none'} fit.",
            hint=f'Use fewer shots, or overrides={{"model.max_seq_length": {sufficient}}} '
            "if the model's context is that long.",
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, including special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def decode_answer(self, ids: Sequence[int]) -> str:
        """Return the text of generated token ids without what the template writes before each answer.

        Some templates open an answer with an empty block of reasoning (`<think>`). It is trained on, so the model
        writes it, but it is not part of the label.
        """
        return self.decode(ids).removeprefix(self.template.answer_prefix)

    def decode_row(self, row: EncodedRow, loss_on: str) -> tuple[str, str]:
        """Return a row as two texts: the part that is only read, and the part that is trained on."""
        prompt, answer = self.decode(row.prompt), self.decode(row.answer)
        return ("", prompt + answer) if loss_on == "full_text" else (prompt, answer)
