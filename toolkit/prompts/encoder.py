"""Text becomes token ids here and nowhere else: training, scoring and export all speak through this module."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.example import Example
from toolkit.errors import DataError, ModelError
from toolkit.prompts.chat_template import ChatTemplate
from toolkit.prompts.messages import answer, prompt_messages
from toolkit.prompts.tokenizer import encode_plain
from toolkit.prompts.truncation import encode_rows, fit_premise
from toolkit.recipe.schema import Task


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row as token ids: the model reads `prompt` and is to say `answer` (verbalizer and end of turn).

    `shortened` tells that the premise lost its end to fit into `max_seq_length`.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    shortened: bool = False

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    def trained(self, loss_on: str) -> int:
        """How many predictions are trained; the first token of a row has nothing to be predicted from."""
        return len(self) - 1 if loss_on == "full_text" else len(self.answer)


class PromptEncoder:
    """Turns rows into token ids for one tokenizer and one task.

    Prompt and answer are encoded apart, so they part by construction; see `ChatTemplate` for what becomes a special
    token and what stays text.

    Args:
        tokenizer: a fast tokenizer with a chat template, unless the task brings one.
        task: labels, verbalizers, messages, template and date.
        max_seq_length: tokens per row, prompt and answer together.
        shots: solved examples that stand before each row as earlier turns, in this order.

    Raises:
        RecipeError: the template does not show where the answer goes.
        ModelError: the tokenizer has no template, or does not encode piecewise as it does at once.
    """

    def __init__(self, tokenizer: Any, task: Task, max_seq_length: int, shots: Sequence[Example] = ()) -> None:
        self.tokenizer = tokenizer
        self.task = task
        self.max_seq_length = max_seq_length
        self.shots = tuple(shots)
        if task.chat_template:
            tokenizer.chat_template = task.chat_template  # so that it is saved, merged and exported with the model
        roles = [message["role"] for message in prompt_messages(task, "-", "-", self.shots)]
        self.template = ChatTemplate(tokenizer, [*roles, "assistant"], date_string=task.date_string)
        self.end_of_turn = self.template.end_of_turn
        answer_prefix = self.template.before_answer
        self.label_ids: dict[str, tuple[int, ...]] = {
            label: (*encode_plain(tokenizer, answer_prefix + answer(task, label)), self.end_of_turn)
            for label in task.labels
        }
        """Each label's token sequence: its verbalizer's tokens and the end-of-turn token."""
        self._check_against_tokenizer()

    def _check_against_tokenizer(self) -> None:
        """On texts without markers, our ids are those of the tokenizer's own way."""
        texts = ("L'été, il pleut.", "Il fait 3 °C dehors !")
        messages = prompt_messages(self.task, *texts, [Example(shot.id, *texts, shot.label) for shot in self.shots])
        own_ids = self._encode_messages(messages)
        tokenizer_ids = self.tokenizer(
            self.template.render(messages, add_generation_prompt=True), add_special_tokens=False
        )["input_ids"]
        if own_ids != self.template.with_one_bos(tokenizer_ids):
            raise ModelError(
                "The chat template or the tokenizer changes with a message's text, so a prompt's ids would not be "
                "those that the model was made with.",
                hint="Use a template that renders each message as it is, and a byte-level BPE tokenizer.",
            )

    def _encode_messages(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.template.encode_prompt([message["content"] for message in messages])

    @property
    def stop_token_ids(self) -> list[int]:
        """Token ids at which generation stops: the end of turn, and the end of text that a base model may know."""
        eos = self.tokenizer.eos_token_id
        return [self.end_of_turn] + [eos] * (eos not in (None, self.end_of_turn))

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens left for a prompt: the longest answer is reserved whatever the label, so no cut tells of it."""
        return self.max_seq_length - max(len(ids) for ids in self.label_ids.values())

    def _encode_prompt(self, premise: str, hypothesis: str) -> list[int]:
        return self._encode_messages(prompt_messages(self.task, premise, hypothesis, self.shots))

    def prompt(self, premise: str, hypothesis: str) -> tuple[tuple[int, ...], bool]:
        """Token ids up to the answer, and whether the premise was shortened at its end to make them fit.

        Raises:
            DataError: the row does not fit even without its premise, or with nothing of it.
        """
        ids, shortened = fit_premise(
            premise, lambda text: self._encode_prompt(text, hypothesis), self.max_prompt_tokens
        )
        return tuple(ids), shortened

    def question(self, premise: str, hypothesis: str) -> EncodedRow:
        """A row without a label, see `prompt`."""
        ids, shortened = self.prompt(premise, hypothesis)
        return EncodedRow(ids, (), shortened)

    def encode(self, examples: Sequence[Example]) -> list[EncodedRow]:
        """Encode rows in order.

        Raises:
            DataError: naming the rows in which `max_seq_length` leaves no room for the answer, or how many shots fit.
        """
        # Each shot more would cost rows their words, and no two numbers of shots could be compared.
        too_long_rows = [example for example in examples if self.shots and not self._fits(example)]
        if too_long_rows:
            raise self._too_many_shots(too_long_rows)

        def encode_row(example: Example) -> EncodedRow:
            ids, shortened = self.prompt(example.premise, example.hypothesis)
            return EncodedRow(ids, self.label_ids[example.label], shortened)

        return encode_rows(examples, encode_row, self.max_seq_length, "the answer", ", or shorten task.system")

    def _fits(self, row: Example) -> bool:
        return len(self._encode_prompt(row.premise, row.hypothesis)) <= self.max_prompt_tokens

    def _too_many_shots(self, rows: Sequence[Example]) -> DataError:
        lengths = [len(self._encode_prompt(example.premise, example.hypothesis)) for example in rows]
        needed = max(lengths)
        longest = rows[lengths.index(needed)]
        fitting_shots = 0
        for fitting_shots in reversed(range(len(self.shots))):
            fewer = PromptEncoder(self.tokenizer, self.task, self.max_seq_length, self.shots[:fitting_shots])
            if len(fewer._encode_prompt(longest.premise, longest.hypothesis)) <= self.max_prompt_tokens:
                break
        sufficient = needed + self.max_seq_length - self.max_prompt_tokens
        return DataError(
            f"model.max_seq_length {self.max_seq_length} is too short for {len(self.shots)} shots in {len(rows)} "
            f"rows (row {longest.id} needs {needed} tokens before the answer); {fitting_shots or 'no'} shots fit.",
            hint=f'Give fewer shots, or overrides={{"model.max_seq_length": {sufficient}}} '
            "where the model's context is that long.",
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def show(self, row: EncodedRow, loss_on: str) -> tuple[str, str]:
        """A row as text: what is read only, and what is trained."""
        prompt, answer = self.decode(row.prompt), self.decode(row.answer)
        return ("", prompt + answer) if loss_on == "full_text" else (prompt, answer)
