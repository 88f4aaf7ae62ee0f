"""Tokenization of rows for decoders, shared by training, scoring and export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from toolkit.data.example import Example
from toolkit.errors import DataError, ModelError, RecipeError
from toolkit.prompts.chat_template import ChatTemplate
from toolkit.prompts.messages import answer_text, prompt_messages
from toolkit.prompts.tokenizer import check_text_survives, tokenizer_errors
from toolkit.prompts.truncation import encode_or_error, encode_rows, truncate_input
from toolkit.recipe.inputs import NLI_INPUTS
from toolkit.recipe.schema import TaskSection


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row as token ids.

    Args:
        prompt: The token ids up to the answer.
        answer: The token ids that the model should write: the verbalizer and the end-of-turn token.
        shortened: Whether the end of an input was cut off to fit into `max_seq_length`.
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
        RecipeError: If the position of the answer in the template cannot be determined, or an answer is as long as
            `max_seq_length`.
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
        roles = [message["role"] for message in prompt_messages(task, dict.fromkeys(task.inputs, "-"), self.shots)]
        self.template = ChatTemplate(tokenizer, [*roles, "assistant"], date_string=task.date_string)
        self.end_of_turn = self.template.end_of_turn
        self.label_ids: dict[str, tuple[int, ...]] = {
            label: (*self.template.encode_answer(answer_text(task, label)), self.end_of_turn) for label in task.labels
        }
        """The token ids of each label: those of its verbalizer and the end-of-turn token."""
        self._check_answers_fit()
        self._check_against_tokenizer()

    def _check_answers_fit(self) -> None:
        if self.max_prompt_tokens <= 0:
            label, ids = max(self.label_ids.items(), key=lambda item: len(item[1]))
            raise RecipeError(
                f"task.verbalizers: the answer for label {label!r:.80} has {len(ids)} tokens, so model.max_seq_length "
                f"{self.max_seq_length} leaves no room for a prompt.",
                hint="Shorten the verbalizer, or raise model.max_seq_length.",
            )

    def _check_against_tokenizer(self) -> None:
        """Check on sample texts that our token ids equal those of the whole rendered prompt."""
        texts = cycle(("L'été, il pleut.", "Il fait 3 °C dehors !"))
        inputs = dict(zip(self.task.inputs, texts, strict=False))
        messages = prompt_messages(self.task, inputs, [replace(shot, inputs=inputs) for shot in self.shots])
        our_ids = self._encode_messages(messages)
        rendered = self.template.render(messages, add_generation_prompt=True)
        with tokenizer_errors():
            tokenizer_ids = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        if our_ids != self.template.with_one_bos(tokenizer_ids):
            raise ModelError(
                "The chat template or the tokenizer changes the text of messages, so prompts would be encoded as "
                "different token ids from those that the model was trained on.",
                hint="Use a template that renders messages unchanged, or a model with another tokenizer.",
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
        # Room for the longest answer is reserved whatever the label. Otherwise the length of a shortened input would
        # reveal the label.
        return self.max_seq_length - max(len(ids) for ids in self.label_ids.values())

    def _prompt_ids(self, inputs: Mapping[str, str]) -> list[int]:
        return self._encode_messages(prompt_messages(self.task, inputs, self.shots))

    def encode_prompt(self, inputs: Mapping[str, str]) -> tuple[tuple[int, ...], bool]:
        """Encode a row, given as the text of each input, up to the answer.

        Returns:
            The token ids, and whether the end of `task.truncated_input` was cut off to make them fit.

        Raises:
            DataError: If the row is still too long after the input has been truncated as far as possible.
        """
        cut = self.task.truncated_input
        ids, shortened = truncate_input(
            cut, inputs[cut], lambda text: self._prompt_ids({**inputs, cut: text}), self.max_prompt_tokens
        )
        return tuple(ids), shortened

    def encode_unlabeled(self, inputs: Mapping[str, str]) -> EncodedRow:
        """Encode a row without a label, see `encode_prompt`."""
        ids, shortened = self.encode_prompt(inputs)
        return EncodedRow(ids, (), shortened)

    def encode_batch(self, rows: Sequence[Mapping[str, str]]) -> list[EncodedRow | DataError]:
        """Encode rows as `encode_unlabeled` does, but faster. For a row that cannot be encoded, return its error."""
        messages = [prompt_messages(self.task, inputs, self.shots) for inputs in rows]
        prompts = self.template.encode_prompts([[message["content"] for message in row] for row in messages])
        return [
            EncodedRow(tuple(ids), ())
            if len(ids) <= self.max_prompt_tokens
            else encode_or_error(self.encode_unlabeled, inputs)
            for ids, inputs in zip(prompts, rows, strict=True)
        ]

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
        self._check_instruction_fits()

        def encode_row(example: Example) -> EncodedRow:
            ids, shortened = self.encode_prompt(example.inputs)
            return EncodedRow(ids, self.label_ids[example.label], shortened)

        is_choice = len(self.task.inputs) > 1 and self.task.truncate is None and self.task.inputs != NLI_INPUTS
        remedy = ", or let task.truncate name the longest input" if is_choice else ", or shorten task.system"
        return encode_rows(examples, encode_row, self.max_seq_length, "the answer", remedy)

    def _check_instruction_fits(self) -> None:
        needed = len(self._prompt_ids(dict.fromkeys(self.task.inputs, "")))
        if needed > self.max_prompt_tokens:
            raise DataError(
                f"model.max_seq_length {self.max_seq_length} is too short: without any text of a row, the prompt needs "
                f"{needed} tokens, and the longest answer {self.max_seq_length - self.max_prompt_tokens}.",
                hint="Raise model.max_seq_length, or shorten task.system and task.user.",
            )

    def _fits(self, row: Example) -> bool:
        return len(self._prompt_ids(row.inputs)) <= self.max_prompt_tokens

    def _too_many_shots_error(self, rows: Sequence[Example]) -> DataError:
        lengths = [len(self._prompt_ids(example.inputs)) for example in rows]
        needed = max(lengths)
        longest = rows[lengths.index(needed)]
        fitting_shots = 0
        for fitting_shots in reversed(range(len(self.shots))):
            with_fewer_shots = PromptTokenizer(
                self.tokenizer, self.task, self.max_seq_length, self.shots[:fitting_shots]
            )
            if len(with_fewer_shots._prompt_ids(longest.inputs)) <= self.max_prompt_tokens:
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
