"""Whether a plain chat call to a GGUF reads the tokens that the model was trained and measured with."""

from collections.abc import Sequence

from toolkit.decoding.llama_cpp import LlamaCpp
from toolkit.errors import ModelError
from toolkit.prompts import EncodedRow, PromptEncoder
from toolkit.task import Example, prompt_messages


def compare_chat_tokens(
    model: LlamaCpp, encoder: PromptEncoder, examples: Sequence[Example], rows: Sequence[EncodedRow]
) -> tuple[int, str]:
    """Render each row's messages with the file's own template and tokenizer, as a chat client would have it done.

    Left out are rows whose premise was shortened, which no chat client does, and rows that hold one of the template's
    markers: text here, a special token to llama.cpp's chat.

    Returns:
        In how many rows the ids differ from `rows`, and a sentence on the first; (0, "") where none does.
    """
    different, first = 0, ""
    for example, row in zip(examples, rows, strict=True):
        if row.shortened or encoder.holds_marker(example.premise + example.hypothesis):
            continue
        try:
            theirs = model.chat_prompt(prompt_messages(encoder.task, example.premise, example.hypothesis))
        except ModelError as error:
            return len(rows), f"a chat call cannot be rendered: {error}"
        if tuple(theirs) != row.prompt:
            different += 1
            first = first or f"row {example.id} has {_difference(encoder, list(row.prompt), theirs)}"
    if not different:
        return 0, ""
    return different, f"a chat call reads other tokens in {different} of {len(rows)} rows; {first}"


def _difference(encoder: PromptEncoder, ours: list[int], theirs: list[int]) -> str:
    if theirs[-len(ours) :] == ours and set(theirs[: -len(ours)]) == {ours[0]}:
        return f"its first token {encoder.decode(ours[:1])} {len(theirs) - len(ours) + 1} times"
    expected, found = encoder.decode(ours), encoder.decode(theirs)
    same = (one == other for one, other in zip(expected, found, strict=False))
    start = next((i for i, equal in enumerate(same) if not equal), min(len(expected), len(found)))
    date = encoder.task.date_string or ""
    dated = expected.find(date) if date else -1
    what = "another date" if 0 <= dated <= start <= dated + len(date) else "another chat template or tokenizer"
    near = slice(max(start - 20, 0), start + 30)
    return f"{what}: {found[near]!r} instead of {expected[near]!r}"
