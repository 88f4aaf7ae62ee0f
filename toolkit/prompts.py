"""Text becomes token ids here and nowhere else: training, scoring and export all speak through this module."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.errors import DataError, ModelError, RecipeError, first_line
from toolkit.fitting import encode_rows, fit_premise
from toolkit.recipe import Task
from toolkit.task import Example, answer, prompt_messages
from toolkit.time_limit import within

# The n-th message's text while the chat template is rendered: private-use characters that no template has.
_SLOT = "\ue000{}\ue001"
_SLOT_PATTERN = _SLOT.format("[0-9]+")
_RENDER_SECONDS = 30.0
"""Far above the milliseconds that a template takes, on any machine."""


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


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a local model folder.

    Raises:
        ModelError: the folder has no tokenizer that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers package raises nothing narrower, and a damaged file breaks it anywhere
        raise ModelError(
            f"{folder} has no tokenizer that can be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}).",
            hint="It needs a whole tokenizer.json and tokenizer_config.json, as save_pretrained writes them.",
        ) from error


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text alone: nothing is added, and a marker such as `<|eot_id|>` in it stays text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def encode_pair(tokenizer: Any, first: str, second: str) -> list[tuple[int, int]]:
    """Two texts as the tokenizer's sentence pair, its markers added; the same characters in a text stay text.

    Returns:
        For each token its id and the text it belongs to, 0 or 1 (0 throughout where the tokenizer does not tell).
    """
    found = tokenizer(
        first,
        second,
        split_special_tokens=True,
        return_token_type_ids=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    # Some vocabularies (CamemBERT's) have a marker as a piece of text too.
    markers, unknown = set(tokenizer.all_special_ids), tokenizer.unk_token_id
    ids = [
        unknown if token in markers and not is_added and unknown is not None else token
        for token, is_added in zip(found["input_ids"], found["special_tokens_mask"], strict=True)
    ]
    return list(zip(ids, found["token_type_ids"], strict=True))


class PromptEncoder:
    """Turns rows into token ids for one tokenizer and one task.

    The chat template is rendered once with empty slots for the messages' texts; a row's texts are put into the slots
    and everything between two special tokens is encoded as one plain text. So template markers become special tokens,
    the same characters in a premise never do, there is exactly one BOS, and prompt and answer part by construction.

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
        special = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = special
        if task.chat_template:
            tokenizer.chat_template = task.chat_template  # so that it is saved, merged and exported with the model
        markers = sorted(special, key=len, reverse=True)
        self._markers = re.compile("(" + "|".join([_SLOT_PATTERN, *map(re.escape, markers)]) + ")")

        self._roles = [message["role"] for message in prompt_messages(task, "-", "-", self.shots)] + ["assistant"]
        turns = [{"role": role, "content": _SLOT.format(n)} for n, role in enumerate(self._roles)]
        self._template = self._render(turns[:-1], add_generation_prompt=True)
        whole = self._render(turns, add_generation_prompt=False)
        before, slot, after = whole.partition(turns[-1]["content"])
        if not slot or not before.startswith(self._template):
            raise RecipeError(
                "The chat template's generation prompt is not how it begins an assistant turn, "
                "so the answer's place is unknown.",
                hint="Write task.chat_template so that add_generation_prompt renders what precedes the answer.",
            )
        self.end_of_turn = self._end_of_turn(after)
        lead = before.removeprefix(self._template)
        self.label_ids: dict[str, tuple[int, ...]] = {
            label: (*encode_plain(tokenizer, lead + answer(task, label)), self.end_of_turn) for label in task.labels
        }
        """Each label's token sequence: its verbalizer's tokens and the end-of-turn token."""
        self._check_against_tokenizer()

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        date = {} if self.task.date_string is None else {"date_string": self.task.date_string}
        if not self.tokenizer.chat_template:
            raise ModelError(
                "The model's tokenizer has no chat template.", hint="Give one with task.chat_template in the recipe."
            )
        try:
            render = partial(self.tokenizer.apply_chat_template, messages, tokenize=False, **date)
            return within(_RENDER_SECONDS, partial(render, add_generation_prompt=add_generation_prompt))
        except Exception as error:  # Jinja's own errors, and whatever the template raises
            raise RecipeError(
                f"The chat template cannot be rendered: {first_line(error).rstrip('.')}.",
                hint="Mend task.chat_template, or the model's chat_template.jinja.",
            ) from error

    def _end_of_turn(self, after_answer: str) -> int:
        """The special token right behind the answer; the tokenizer's EOS where the template has none."""
        first = self._markers.match(after_answer.lstrip())
        if first:
            return self._special_ids[first.group()]
        if self.tokenizer.eos_token_id is None:
            raise RecipeError(
                "Neither the chat template nor the tokenizer ends a turn, so no label could be told apart."
            )
        return self.tokenizer.eos_token_id

    def _check_against_tokenizer(self) -> None:
        """On texts without markers, our ids are those of the tokenizer's own way."""
        plain = ("L'été, il pleut.", "Il fait 3 °C dehors !")
        messages = prompt_messages(self.task, *plain, [Example(shot.id, *plain, shot.label) for shot in self.shots])
        ours = self._encode_messages(messages)
        theirs = self.tokenizer(self._render(messages, add_generation_prompt=True), add_special_tokens=False)[
            "input_ids"
        ]
        if ours != self._one_bos(theirs):
            raise ModelError(
                "The chat template or the tokenizer changes with a message's text, so a prompt's ids would not be "
                "those that the model was made with.",
                hint="Use a template that renders each message as it is, and a byte-level BPE tokenizer.",
            )

    def _one_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        start = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        return [bos, *ids[start:]]

    def _encode_messages(self, messages: Sequence[dict[str, str]]) -> list[int]:
        contents = {_SLOT.format(n): message["content"] for n, message in enumerate(messages)}
        ids: list[int] = []
        text = ""
        for piece in self._markers.split(self._template):
            if piece in self._special_ids:
                ids += (
                    [*encode_plain(self.tokenizer, text), self._special_ids[piece]]
                    if text
                    else [self._special_ids[piece]]
                )
                text = ""
            else:
                text += contents.get(piece, piece)
        return self._one_bos(ids + (encode_plain(self.tokenizer, text) if text else []))

    def template_parts(self) -> list[tuple[str | None, str]]:
        """The chat template's rendering up to the answer, cut where a message's text goes.

        Returns:
            (None, text of the template) and (role, "") where that role's text goes, in order.
        """
        roles = {_SLOT.format(n): role for n, role in enumerate(self._roles)}
        pieces = re.split(f"({_SLOT_PATTERN})", self._template)
        return [(roles.get(piece), "" if piece in roles else piece) for piece in pieces if piece]

    def holds_marker(self, text: str) -> bool:
        """Whether a text has the characters of a special token, which stay text here."""
        return any(marker in text for marker in self._special_ids)

    @property
    def ends(self) -> list[int]:
        """Token ids at which generation stops: the end of turn, and the end of text that a base model may know."""
        eos = self.tokenizer.eos_token_id
        return [self.end_of_turn] + [eos] * (eos not in (None, self.end_of_turn))

    @property
    def room(self) -> int:
        """Tokens left for a prompt: the longest answer is reserved whatever the label, so no cut tells of it."""
        return self.max_seq_length - max(len(ids) for ids in self.label_ids.values())

    def _whole(self, premise: str, hypothesis: str) -> list[int]:
        return self._encode_messages(prompt_messages(self.task, premise, hypothesis, self.shots))

    def prompt(self, premise: str, hypothesis: str) -> tuple[tuple[int, ...], bool]:
        """Token ids up to the answer, and whether the premise was shortened at its end to make them fit.

        Raises:
            DataError: the row does not fit even without its premise, or with nothing of it.
        """
        ids, shortened = fit_premise(premise, lambda text: self._whole(text, hypothesis), self.room)
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
        too_long = [row for row in examples if self.shots and not self._fits(row)]
        if too_long:
            raise self._too_many_shots(too_long)

        def row(example: Example) -> EncodedRow:
            ids, shortened = self.prompt(example.premise, example.hypothesis)
            return EncodedRow(ids, self.label_ids[example.label], shortened)

        return encode_rows(examples, row, self.max_seq_length, "the answer", ", or shorten task.system")

    def _fits(self, row: Example) -> bool:
        return len(self._whole(row.premise, row.hypothesis)) <= self.room

    def _too_many_shots(self, refused: Sequence[Example]) -> DataError:
        lengths = [len(self._whole(example.premise, example.hypothesis)) for example in refused]
        needed = max(lengths)
        longest = refused[lengths.index(needed)]
        fit = 0
        for fit in reversed(range(len(self.shots))):
            fewer = PromptEncoder(self.tokenizer, self.task, self.max_seq_length, self.shots[:fit])
            if len(fewer._whole(longest.premise, longest.hypothesis)) <= self.room:
                break
        return DataError(
            f"model.max_seq_length {self.max_seq_length} is too short for {len(self.shots)} shots in {len(refused)} "
            f"rows (row {longest.id} needs {needed} tokens before the answer); {fit or 'no'} shots fit.",
            hint=f"Give fewer shots, or --set model.max_seq_length={needed + self.max_seq_length - self.room} "
            "where the model's context is that long.",
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def show(self, row: EncodedRow, loss_on: str) -> tuple[str, str]:
        """A row as text: what is read only, and what is trained."""
        prompt, answer = self.decode(row.prompt), self.decode(row.answer)
        return ("", prompt + answer) if loss_on == "full_text" else (prompt, answer)
