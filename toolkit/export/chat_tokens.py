"""A check that a plain chat request to a GGUF file produces the token ids that the model was trained on.

llama.cpp is asked in a child process with a time limit, because a chat template with an endless loop would block this
one. The child is `python -m toolkit.export.chat_tokens`, and reads and writes JSON.
"""

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from toolkit.data.example import Example
from toolkit.errors import ModelError
from toolkit.inference.llama_cpp import LOG_VARIABLE, LlamaCpp
from toolkit.prompts.messages import prompt_messages
from toolkit.prompts.prompt_tokenizer import EncodedRow, PromptTokenizer
from toolkit.prompts.tokenizer import normalizes_to_nfc

_CHAT_SECONDS = 300.0  # most of it for reading a large file from a slow disk; rendering takes milliseconds


def compare_chat_tokens(
    gguf: Path, prompt_tokenizer: PromptTokenizer, examples: Sequence[Example], rows: Sequence[EncodedRow]
) -> tuple[int, str]:
    """Count the rows whose messages become other token ids with the file's own chat template and tokenizer.

    Rows with a shortened text are skipped because chat clients do not shorten text. Rows that contain one of the
    template's special tokens are skipped too: the toolkit encodes them as plain text, llama.cpp's chat as special
    tokens. The same holds for rows that only the tokenizer normalizes to NFC, which the file's README mentions.

    Returns:
        The number of rows whose ids differ from `rows`, and a sentence about the first of them; (0, "") if none differ.
    """
    normalizes = normalizes_to_nfc(prompt_tokenizer.tokenizer)
    compared = [
        (example, row)
        for example, row in zip(examples, rows, strict=True)
        if not row.shortened
        and not prompt_tokenizer.template.contains_special_token("".join(example.texts))
        and not (normalizes and any(not unicodedata.is_normalized("NFC", text) for text in example.texts))
    ]
    messages = [prompt_messages(prompt_tokenizer.task, row.inputs) for row, _ in compared]
    try:
        chat_ids = _tokenize_chats(gguf, messages)
    except ModelError as error:
        # All rows count as different: a template that fails for one message can fail for any.
        return len(rows), f"llama.cpp cannot render a chat request: {error}"
    differing = [(*pair, ids) for pair, ids in zip(compared, chat_ids, strict=True) if tuple(ids) != pair[1].prompt]
    if not differing:
        return 0, ""
    example, row, ids = differing[0]
    difference = _describe_difference(prompt_tokenizer, list(row.prompt), ids)
    return (
        len(differing),
        f"a chat request has different tokens in {len(differing)} of {len(rows)} rows; row {example.id}: {difference}",
    )


def _tokenize_chats(gguf: Path, conversations: list[list[dict[str, str]]]) -> list[list[int]]:
    """Return the token ids of chat requests according to llama.cpp, from a child process.

    Raises:
        ModelError: If llama.cpp cannot render a request, crashes, or takes too long.
    """
    command = [sys.executable, "-m", "toolkit.export.chat_tokens", str(gguf)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(
            command,
            input=json.dumps(conversations).encode(),
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get(LOG_VARIABLE) else subprocess.DEVNULL,
            env=environment,
            timeout=_CHAT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"its chat template takes more than {_CHAT_SECONDS:g} seconds.") from None
    if child.returncode:
        raise ModelError(f"llama.cpp ended with exit code {child.returncode}.")
    answer = json.loads(child.stdout.splitlines()[-1])
    if isinstance(answer, str):
        raise ModelError(answer)
    return answer


def _main(gguf: str) -> None:
    conversations = json.load(sys.stdin.buffer)
    try:
        with LlamaCpp(Path(gguf), context_length=64, sequences=1, use_chat_template=True) as model:
            answer: list[list[int]] | str = [model.tokenize_chat(messages) for messages in conversations]
    except ModelError as error:
        answer = str(error)
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


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


if __name__ == "__main__":
    _main(*sys.argv[1:])
