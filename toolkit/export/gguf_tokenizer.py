"""The tokenizer of a model folder in GGUF's form: byte-level BPE with Llama 3's split rule, and nothing else."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import SpecialVocab, TokenType
from tokenizers import Tokenizer

from toolkit.errors import ExportError
from toolkit.models.decoder_config import read_json
from toolkit.models.llama_tokenizer import check_llama_tokenizer, token_ids
from toolkit.prompts.dates import pin_date

# gguf warns about every Llama 3 tokenizer because its template for text pairs starts the second text with a special
# token, too.
logging.getLogger("gguf.vocab").setLevel(logging.ERROR)


@dataclass(frozen=True)
class GgufTokenizer:
    """The contents of the `tokenizer.ggml.*` fields.

    `special` holds the merges, the ids of the special tokens, the flags that add them to a text, and the chat template.
    """

    tokens: list[str]
    token_types: list[TokenType]
    special: SpecialVocab


def read_tokenizer(folder: Path, vocab_size: int, date_string: str | None = None) -> GgufTokenizer:
    """Read tokenizer.json, tokenizer_config.json, and the chat template.

    Args:
        folder: The model folder.
        vocab_size: The number of rows of the embedding. Ids that the tokenizer does not have become unused tokens.
        date_string: The date that the chat template prints as today's. None leaves the template unchanged, and it then
            reads the clock.

    Raises:
        ExportError: If llama.cpp's `llama-bpe` would split some text into different tokens than this tokenizer.
    """
    raw = read_json(folder / "tokenizer.json")
    tokenizer = _load_tokenizer(folder / "tokenizer.json")
    check_llama_tokenizer(raw, tokenizer, vocab_size, folder)
    ids, added = token_ids(raw), raw.get("added_tokens", [])
    tokens, token_types = [f"[PAD{i}]" for i in range(vocab_size)], [TokenType.UNUSED] * vocab_size
    for token, token_id in ids.items():
        tokens[token_id], token_types[token_id] = token, TokenType.NORMAL
    for token in added:
        # Both the tokenizers package and llama.cpp match USER_DEFINED tokens in any text, and CONTROL tokens only where
        # special tokens are allowed.
        token_types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    special = SpecialVocab(folder, load_merges=True, n_vocab=vocab_size)
    special.chat_template = _with_date(special.chat_template, date_string)
    return GgufTokenizer(tokens, token_types, special)


def _with_date(template: Any, date_string: str | None) -> Any:
    """Pin the date that a chat template prints, or that each template of a list of named ones prints."""
    if template is None or isinstance(template, str):
        return template and pin_date(template, date_string)
    return [{**named, "template": _with_date(named["template"], date_string)} for named in template]


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises plain Exception
        raise ExportError(f"{path} cannot be read: {error}.", hint="Merge again, or copy the file again.") from error
