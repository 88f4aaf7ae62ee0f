"""Whether a plain chat call to a GGUF reads the tokens that the model was trained and measured with."""

from collections.abc import Sequence

from toolkit.data.example import Example
from toolkit.errors import ModelError
from toolkit.inference.llama_cpp import LlamaCpp
from toolkit.prompts.encoder import EncodedRow, PromptEncoder
from toolkit.prompts.messages import prompt_messages


def compare_chat_tokens(
    model: LlamaCpp, encoder: PromptEncoder, examples: Sequence[Example], rows: Sequence[EncodedRow]
) -> tuple[int, str]:
    """Render each row's messages with the file's own template and tokenizer, as a chat client would have it done.

    Left out are rows whose premise was shortened, which no chat client does, and rows that hold one of the template's
    markers: text here, a special token to llama.cpp's chat.

    Returns:
        In how many rows the ids differ from `rows`, and a sentence on the first; (0, "") where none does.
    """
    differing_rows, first_difference = 0, ""
    for example, row in zip(examples, rows, strict=True):
        if row.shortened or encoder.template.holds_marker(example.premise + example.hypothesis):
            continue
        try:
            chat_ids = model.chat_prompt(prompt_messages(encoder.task, example.premise, example.hypothesis))
        except ModelError as error:
            return len(rows), f"a chat call cannot be rendered: {error}"
        if tuple(chat_ids) != row.prompt:
            differing_rows += 1
            first_difference = (
                first_difference or f"row {example.id} has {_describe_difference(encoder, list(row.prompt), chat_ids)}"
            )
    if not differing_rows:
        return 0, ""
    return differing_rows, f"a chat call reads other tokens in {differing_rows} of {len(rows)} rows; {first_difference}"


def _describe_difference(encoder: PromptEncoder, expected_ids: list[int], chat_ids: list[int]) -> str:
    if chat_ids[-len(expected_ids) :] == expected_ids and set(chat_ids[: -len(expected_ids)]) == {expected_ids[0]}:
        return f"its first token {encoder.decode(expected_ids[:1])} {len(chat_ids) - len(expected_ids) + 1} times"
    expected, actual = encoder.decode(expected_ids), encoder.decode(chat_ids)
    matches = (expected_char == actual_char for expected_char, actual_char in zip(expected, actual, strict=False))
    start = next((i for i, is_match in enumerate(matches) if not is_match), min(len(expected), len(actual)))
    date = encoder.task.date_string or ""
    date_start = expected.find(date) if date else -1
    cause = (
        "another date" if 0 <= date_start <= start <= date_start + len(date) else "another chat template or tokenizer"
    )
    excerpt = slice(max(start - 20, 0), start + 30)
    return f"{cause}: {actual[excerpt]!r} instead of {expected[excerpt]!r}"
