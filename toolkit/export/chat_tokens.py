"""A check that a plain chat request to a GGUF file produces the token ids that the model was trained on."""

from collections.abc import Sequence

from toolkit.data.example import Example
from toolkit.errors import ModelError
from toolkit.inference.llama_cpp import LlamaCpp
from toolkit.prompts.messages import prompt_messages
from toolkit.prompts.prompt_tokenizer import EncodedRow, PromptTokenizer


def compare_chat_tokens(
    model: LlamaCpp, prompt_tokenizer: PromptTokenizer, examples: Sequence[Example], rows: Sequence[EncodedRow]
) -> tuple[int, str]:
    """Count the rows whose messages become other token ids with the file's own chat template and tokenizer.

    Rows with a shortened premise are skipped because chat clients do not shorten text. Rows that contain one of the
    template's special tokens are skipped too: the toolkit encodes them as plain text, llama.cpp's chat as special
    tokens.

    Returns:
        The number of rows whose ids differ from `rows`, and a sentence about the first of them; (0, "") if none differ.
    """
    differing_rows, first_difference = 0, ""
    for example, row in zip(examples, rows, strict=True):
        if row.shortened or prompt_tokenizer.template.contains_special_token(example.premise + example.hypothesis):
            continue
        try:
            chat_ids = model.tokenize_chat(prompt_messages(prompt_tokenizer.task, example.premise, example.hypothesis))
        except ModelError as error:
            # All rows count as different: a template that fails for one message can fail for any.
            return len(rows), f"llama.cpp cannot render a chat request: {error}"
        if tuple(chat_ids) != row.prompt:
            differing_rows += 1
            first_difference = (
                first_difference
                or f"row {example.id}: {_describe_difference(prompt_tokenizer, list(row.prompt), chat_ids)}"
            )
    if not differing_rows:
        return 0, ""
    return (
        differing_rows,
        f"a chat request yields different tokens in {differing_rows} of {len(rows)} rows; {first_difference}",
    )


def _describe_difference(prompt_tokenizer: PromptTokenizer, expected_ids: list[int], chat_ids: list[int]) -> str:
    # A common fault: the template writes the beginning-of-text token and llama.cpp's tokenizer adds another one.
    if chat_ids[-len(expected_ids) :] == expected_ids and set(chat_ids[: -len(expected_ids)]) == {expected_ids[0]}:
        return (
            f"the first token {prompt_tokenizer.decode(expected_ids[:1])} occurs "
            f"{len(chat_ids) - len(expected_ids) + 1} times"
        )
    expected, actual = prompt_tokenizer.decode(expected_ids), prompt_tokenizer.decode(chat_ids)
    matches = (expected_char == actual_char for expected_char, actual_char in zip(expected, actual, strict=False))
    start = next((i for i, is_match in enumerate(matches) if not is_match), min(len(expected), len(actual)))
    date = prompt_tokenizer.task.date_string or ""
    date_start = expected.find(date) if date else -1
    cause = (
        "a different date"
        if 0 <= date_start <= start <= date_start + len(date)
        else "a different chat template or tokenizer"
    )
    excerpt = slice(max(start - 20, 0), start + 30)
    return f"{cause}: {actual[excerpt]!r} instead of {expected[excerpt]!r}"
