"""Chat templates: rendered once with placeholders, then filled with messages at the level of token ids."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from toolkit.errors import ModelError, RecipeError, first_line
from toolkit.prompts.dates import DATE_KEY, pin_date
from toolkit.prompts.tokenizer import encode_plain, encode_plain_texts, space_prefix_scheme, without_space_prefix
from toolkit.utils.timeouts import run_with_timeout

# A slot stands for the text of the n-th message while the template is rendered. Its private-use characters do not occur
# in chat templates.
_SLOT = "\ue000{}\ue001"
_SLOT_PATTERN = _SLOT.format("[0-9]+")
_NO_SYSTEM_HINT = "It has no system role: set task.system: null in the recipe, and put the instruction into task.user."
_MAX_CHARACTERS = 10_000_000  # more than any model reads; the tokenizer needs about 20 bytes for each
_RENDER_SECONDS = 30.0  # rendering takes milliseconds, so this is generous on any machine

_Segment = int | tuple[str, list[int]]
"""A part of a rendered template: the id of a special token, or a text and the indices of the messages in it."""


class ChatTemplate:
    """A tokenizer's chat template for a fixed sequence of roles.

    The template is rendered once, with slots in place of the messages. To encode a conversation, its messages are put
    into the slots, and the text between two special tokens is encoded as plain text. Special tokens of the template
    become special tokens, but the same characters in a message do not, and every conversation has exactly one BOS.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        roles: The roles of the messages in order, the last of which is that of the answer.
        date_string: The date for templates that print one. If None, they print the current date.

    Raises:
        RecipeError: If the template cannot be rendered, or the position of the answer cannot be determined.
        ModelError: If the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, roles: Sequence[str], *, date_string: str | None = None) -> None:
        self.tokenizer = tokenizer
        # A tokenizer that writes a space before a text must not do so within one, nor after a special token if it
        # writes the space only once.
        self._continuing = without_space_prefix(tokenizer)
        self._after_special = self._continuing if space_prefix_scheme(tokenizer) == "first" else tokenizer
        self.roles = tuple(roles)
        self.date_string = date_string
        self._special_ids = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        # The longest first: a regular expression takes the first alternative that matches, and one special token can be
        # the beginning of another.
        special_tokens = sorted(self._special_ids, key=len, reverse=True)
        self._split_pattern = re.compile("(" + "|".join([_SLOT_PATTERN, *map(re.escape, special_tokens)]) + ")")
        slots = [_SLOT.format(index) for index in range(len(self.roles))]
        turns = [{"role": role, "content": slot} for role, slot in zip(self.roles, slots, strict=True)]
        self._prompt = self.render(turns[:-1], add_generation_prompt=True)
        self._conversation = self.render(turns, add_generation_prompt=False)
        self._check_all_messages_occur(slots[:-1])
        prefix, slot, suffix = self._conversation.partition(slots[-1])
        if not slot or not prefix.startswith(self._prompt):
            raise RecipeError(
                "The chat template's generation prompt differs from the beginning of its assistant turn, "
                "so the position of the answer is unknown.",
                hint="Change task.chat_template so that add_generation_prompt renders the text before the answer.",
            )
        if slot in suffix:
            raise RecipeError(
                "The chat template writes the answer twice, so a model could copy it.",
                hint="Change task.chat_template so that the last message occurs once.",
            )
        self.answer_prefix = prefix.removeprefix(self._prompt)
        """The text between the generation prompt and the answer, usually empty."""
        self.end_of_turn = self._find_end_of_turn(suffix)
        """The id of the special token after the answer, or of the tokenizer's EOS if the template has none there."""

    def render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """Render the template for `messages` as text.

        Raises:
            ModelError: If the tokenizer has no chat template.
            RecipeError: If the template raises an error or takes too long.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(
                "The model's tokenizer has no chat template.", hint="Set task.chat_template in the recipe."
            )
        try:
            return self._apply(messages, add_generation_prompt)
        except Exception as error:  # Jinja's errors, and anything that an expression in the template raises
            raise RecipeError(
                f"The chat template cannot be rendered: {first_line(error).rstrip('.')}.",
                hint=self._suggest_fix(messages, error),
            ) from error

    def _apply(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        template = pin_date(self.tokenizer.get_chat_template(), self.date_string)
        apply = partial(self.tokenizer.apply_chat_template, messages, chat_template=template, tokenize=False)
        # A template comes with a downloaded model, so it is untrusted. Jinja's sandbox prevents code execution, but not
        # loops that take hours.
        rendered = run_with_timeout(_RENDER_SECONDS, partial(apply, add_generation_prompt=add_generation_prompt))
        if len(rendered) > _MAX_CHARACTERS:
            raise ValueError(f"it writes {len(rendered):,} characters")
        return rendered

    def _suggest_fix(self, messages: list[dict[str, str]], error: Exception) -> str:
        if DATE_KEY in str(error):
            return f"Write {DATE_KEY} as 26 Jul 2024 or 2024-07-26."
        without_system = [message for message in messages if message["role"] != "system"]
        if len(without_system) < len(messages) and not isinstance(error, TimeoutError):
            with suppress(Exception):
                self._apply(without_system, True)
                return _NO_SYSTEM_HINT
        return "Fix task.chat_template or the model's chat_template.jinja."

    def encode_prompt(self, texts: Sequence[str]) -> list[int]:
        """Return the token ids of a prompt, given the texts of all messages before the answer."""
        return self._encode(self._prompt, texts)[0]

    def encode_prompts(self, conversations: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the token ids of many prompts, as `encode_prompt` does, but with fewer calls to the tokenizer.

        Args:
            conversations: For each prompt, the texts of all messages before the answer.
        """
        pieces = self._split_pattern.split(self._prompt)
        prompts = [list(self._segments(pieces, texts)) for texts in conversations]
        first = {segments[0][0] for segments in prompts if segments and not isinstance(segments[0], int)}
        later = {segment[0] for segments in prompts for segment in segments[1:] if not isinstance(segment, int)}
        known = {
            (id(tokenizer), text): ids
            for tokenizer, texts in ((self.tokenizer, first), (self._after_special, later))
            for text, ids in encode_plain_texts(tokenizer, texts - {""}).items()
        }

        def encode(tokenizer: Any, text: str) -> list[int]:
            # A later text is unknown to the first tokenizer, which encodes it if the segments before it have no tokens.
            return known.get((id(tokenizer), text)) or encode_plain(tokenizer, text)

        return [self.with_one_bos(self._encode_segments(segments, self.tokenizer, encode)[0]) for segments in prompts]

    def encode_conversation(self, texts: Sequence[str]) -> tuple[list[int], list[int]]:
        """Encode a complete conversation with its answer.

        Args:
            texts: The text of each message.

        Returns:
            The token ids, and the start of each message: the position of the first token after the special token that
            precedes it. Plain text which the template writes before the message is counted as part of it.
        """
        return self._encode(self._conversation, texts)

    def encode_answer(self, text: str) -> list[int]:
        """Return the token ids of an answer, with what the template writes between generation prompt and answer."""
        last_piece = [piece for piece in self._split_pattern.split(self._prompt) if piece][-1]
        first = self._after_special if last_piece in self._special_ids else self._continuing
        segments = self._segments(self._split_pattern.split(self.answer_prefix + _SLOT.format(0)), [text])
        return self._encode_segments(segments, first, encode_plain)[0]

    def with_one_bos(self, ids: list[int]) -> list[int]:
        """Return the ids with exactly one BOS at the start, or unchanged if the tokenizer has no BOS."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        start = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        return [bos, *ids[start:]]

    def split_prompt(self) -> list[tuple[str | None, str]]:
        """Split the rendered prompt into text of the template and slots for messages.

        Returns:
            In order, `(None, text)` for text of the template and `(role, "")` for the slot of a message.
        """
        roles = {_SLOT.format(index): role for index, role in enumerate(self.roles)}
        pieces = re.split(f"({_SLOT_PATTERN})", self._prompt)
        return [(roles.get(piece), "" if piece in roles else piece) for piece in pieces if piece]

    @property
    def prints_date(self) -> bool:
        """True if the prompt contains a date: it changes with `date_string`."""
        return ChatTemplate(self.tokenizer, self.roles, date_string="1 Jan 1970")._prompt != self._prompt

    def texts_between_special_tokens(self) -> list[str]:
        """Return the prompt without its special tokens. The first text is empty if it starts with one."""
        texts = [""]
        for piece in self._split_pattern.split(self._prompt):
            if piece in self._special_ids:
                texts.append("")
            else:
                texts[-1] += piece
        return texts

    def contains_special_token(self, text: str) -> bool:
        """Return whether a text spells out a special token."""
        return any(token in text for token in self._special_ids)

    def _check_all_messages_occur(self, slots: Sequence[str]) -> None:
        for role, slot in zip(self.roles, slots, strict=False):
            if slot not in self._prompt or slot not in self._conversation:
                raise RecipeError(
                    f"The chat template leaves out the {role} message, so the model would never read it.",
                    hint=_NO_SYSTEM_HINT if role == "system" else "Fix task.chat_template.",
                )

    def _find_end_of_turn(self, text_after_answer: str) -> int:
        match = self._split_pattern.match(text_after_answer.lstrip())
        if match:
            return self._special_ids[match.group()]
        if self.tokenizer.eos_token_id is None:
            raise RecipeError(
                "Neither the chat template nor the tokenizer has an end-of-turn token, so an answer would not end.",
                hint="Write a special token after the answer in task.chat_template.",
            )
        return self.tokenizer.eos_token_id

    def _encode(self, rendered: str, texts: Sequence[str]) -> tuple[list[int], list[int]]:
        ids, starts = self._encode_segments(
            self._segments(self._split_pattern.split(rendered), texts), self.tokenizer, encode_plain
        )
        with_bos = self.with_one_bos(ids)
        return with_bos, [start + len(with_bos) - len(ids) for start in starts]

    def _segments(self, pieces: Iterable[str], texts: Sequence[str]) -> Iterator[_Segment]:
        """Yield the pieces of a template as segments: the id of a special token, or the text up to the next one."""
        slots = {_SLOT.format(index): index for index in range(len(texts))}
        # `text` collects the plain text since the last special token, with the messages in it, because BPE can merge
        # characters across the boundary between template and message.
        text, pending_slots = "", list[int]()
        for piece in pieces:
            if piece in self._special_ids:
                if text or pending_slots:
                    yield text, pending_slots
                yield self._special_ids[piece]
                text, pending_slots = "", []
            elif piece in slots:
                pending_slots.append(slots[piece])
                text += texts[slots[piece]]
            else:
                text += piece
        if text or pending_slots:
            yield text, pending_slots

    def _encode_segments(
        self, segments: Iterable[_Segment], tokenizer: Any, encode: Callable[[Any, str], list[int]]
    ) -> tuple[list[int], list[int]]:
        """Encode segments, with `tokenizer` for the text before the first token.

        Returns:
            The token ids, and the start of each message in the order of its slot.
        """
        ids: list[int] = []
        starts: dict[int, int] = {}
        for segment in segments:
            if isinstance(segment, int):
                ids.append(segment)
                continue
            text, slots = segment
            starts |= dict.fromkeys(slots, len(ids))
            ids.extend(encode(self._after_special if ids else tokenizer, text) if text else [])
        return ids, [starts[slot] for slot in sorted(starts)]
