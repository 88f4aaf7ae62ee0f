"""A chat template, rendered once and filled with texts as token ids."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from toolkit.errors import ModelError, RecipeError, first_line
from toolkit.prompts.tokenizer import encode_plain
from toolkit.utils.timeouts import run_with_timeout

# The n-th message's text while the template is rendered: private-use characters that no template has.
_SLOT = "\ue000{}\ue001"
_SLOT_PATTERN = _SLOT.format("[0-9]+")
_RENDER_SECONDS = 30.0
"""Far above the milliseconds that a template takes, on any machine."""


class ChatTemplate:
    """A tokenizer's chat template for a fixed sequence of roles.

    The template is rendered once with empty slots for the messages' texts. A conversation's texts are put into the
    slots, and everything between two special tokens is encoded as one plain text. So template markers become special
    tokens, the same characters in a message never do, and there is exactly one BOS.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        roles: of the messages in order; the last one is the answer's.
        date_string: today's date for templates that print one; None lets them ask the clock.

    Raises:
        RecipeError: the template cannot be rendered, or does not show where the answer goes.
        ModelError: the tokenizer has no template.
    """

    def __init__(self, tokenizer: Any, roles: Sequence[str], *, date_string: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.roles = tuple(roles)
        self._date = {} if date_string is None else {"date_string": date_string}
        self._special_ids = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        markers = sorted(self._special_ids, key=len, reverse=True)
        self._marker_pattern = re.compile("(" + "|".join([_SLOT_PATTERN, *map(re.escape, markers)]) + ")")
        slots = [_SLOT.format(index) for index in range(len(self.roles))]
        turns = [{"role": role, "content": slot} for role, slot in zip(self.roles, slots, strict=True)]
        self._prompt = self.render(turns[:-1], add_generation_prompt=True)
        self._conversation = self.render(turns, add_generation_prompt=False)
        prefix, slot, suffix = self._conversation.partition(slots[-1])
        if not slot or not prefix.startswith(self._prompt):
            raise RecipeError(
                "The chat template's generation prompt is not how it begins an assistant turn, "
                "so the answer's place is unknown.",
                hint="Write task.chat_template so that add_generation_prompt renders what precedes the answer.",
            )
        self.before_answer = prefix.removeprefix(self._prompt)
        """Text between the generation prompt and the answer."""
        self.end_of_turn = self._end_of_turn(suffix)
        """The id of the special token right after the answer; the tokenizer's EOS where the template has none."""

    def render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """Return the template's text for `messages`.

        Raises:
            ModelError: the tokenizer has no template.
            RecipeError: the template raises, or does not end.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(
                "The model's tokenizer has no chat template.", hint="Give one with task.chat_template in the recipe."
            )
        try:
            apply = partial(self.tokenizer.apply_chat_template, messages, tokenize=False, **self._date)
            return run_with_timeout(_RENDER_SECONDS, partial(apply, add_generation_prompt=add_generation_prompt))
        except Exception as error:  # Jinja's own errors, and whatever the template raises
            raise RecipeError(
                f"The chat template cannot be rendered: {first_line(error).rstrip('.')}.",
                hint="Mend task.chat_template, or the model's chat_template.jinja.",
            ) from error

    def encode_prompt(self, texts: Sequence[str]) -> list[int]:
        """Return the token ids up to the answer, for the texts of all messages before it."""
        return self._encode(self._prompt, texts)[0]

    def encode_conversation(self, texts: Sequence[str]) -> tuple[list[int], list[int]]:
        """Encode a whole conversation, the answer included.

        Args:
            texts: one for each role.

        Returns:
            The token ids, and for each message the position of the first token of the plain text that holds it: what
            the template writes in front of the message belongs to that text.
        """
        return self._encode(self._conversation, texts)

    def with_one_bos(self, ids: list[int]) -> list[int]:
        """Return the ids with exactly one BOS in front, where the tokenizer has such a token."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        start = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        return [bos, *ids[start:]]

    def pieces(self) -> list[tuple[str | None, str]]:
        """Return the prompt's rendering, cut where a message's text goes.

        Returns:
            (None, text of the template) and (role, "") where that role's text goes, in order.
        """
        roles = {_SLOT.format(index): role for index, role in enumerate(self.roles)}
        pieces = re.split(f"({_SLOT_PATTERN})", self._prompt)
        return [(roles.get(piece), "" if piece in roles else piece) for piece in pieces if piece]

    def holds_marker(self, text: str) -> bool:
        """Return whether a text has the characters of a special token, which stay text here."""
        return any(marker in text for marker in self._special_ids)

    def _end_of_turn(self, after_answer: str) -> int:
        match = self._marker_pattern.match(after_answer.lstrip())
        if match:
            return self._special_ids[match.group()]
        if self.tokenizer.eos_token_id is None:
            raise RecipeError(
                "Neither the chat template nor the tokenizer ends a turn, so no label could be told apart."
            )
        return self.tokenizer.eos_token_id

    def _encode(self, rendered: str, texts: Sequence[str]) -> tuple[list[int], list[int]]:
        slots = {_SLOT.format(index): index for index in range(len(texts))}
        ids: list[int] = []
        starts = [0] * len(texts)
        text, pending = "", list[int]()

        def flush() -> None:
            nonlocal text, pending
            for index in pending:
                starts[index] = len(ids)
            ids.extend(encode_plain(self.tokenizer, text) if text else [])
            text, pending = "", []

        for piece in self._marker_pattern.split(rendered):
            if piece in self._special_ids:
                flush()
                ids.append(self._special_ids[piece])
            elif piece in slots:
                pending.append(slots[piece])
                text += texts[slots[piece]]
            else:
                text += piece
        flush()
        with_bos = self.with_one_bos(ids)
        return with_bos, [start + len(with_bos) - len(ids) for start in starts]
