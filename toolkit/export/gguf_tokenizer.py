"""The tokenizer of a model folder in GGUF's form: byte-level BPE with Llama 3's split rule, and nothing else."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import SpecialVocab, TokenType
from tokenizers import Tokenizer

from toolkit.errors import ExportError
from toolkit.export.llama_config import read_json
from toolkit.prompts.split_rules import LLAMA_BPE

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
    _check_compatible(raw, tokenizer, folder)
    added = raw.get("added_tokens", [])
    ids = raw["model"]["vocab"] | {token["content"]: token["id"] for token in added}
    if max(ids.values()) >= vocab_size:
        raise ExportError(
            f"The tokenizer of {folder} has token id {max(ids.values())}, but the embedding has {vocab_size} rows.",
            hint="Resize the embedding to the tokenizer before training, or merge again with the right tokenizer.",
        )
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
    if template is None or date_string is None:
        return template
    if isinstance(template, str):
        return f"{{%- set date_string = {json.dumps(date_string, ensure_ascii=False)} %}}{template}"
    return [{**named, "template": _with_date(named["template"], date_string)} for named in template]


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises plain Exception
        raise ExportError(f"{path} cannot be read: {error}.", hint="Merge again, or copy the file again.") from error


def _check_compatible(raw: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    hint = "Start from a model with Llama 3's tokenizer. llama.cpp's own converter supports others."
    model = raw.get("model") or {}
    if model.get("type") != "BPE":
        raise ExportError(
            f"The tokenizer of {folder} is {model.get('type') or 'of an unknown type'}, not byte-level BPE.", hint=hint
        )
    if raw.get("normalizer") is not None:
        raise ExportError(
            f"The tokenizer of {folder} normalizes text ({raw['normalizer'].get('type')}), which llama.cpp cannot do.",
            hint=hint,
        )
    if (rule := _split_rule(raw.get("pre_tokenizer"))) != LLAMA_BPE:
        raise ExportError(
            f"The tokenizer of {folder} splits words by a different rule than Llama 3's ({rule}), so llama.cpp would "
            "see different tokens.",
            hint=hint,
        )
    vocabulary = model["vocab"].keys() - {token["content"] for token in raw.get("added_tokens", [])}
    if not model.get("ignore_merges") and (token := _unmerged_token(tokenizer, vocabulary)) is not None:
        raise ExportError(
            f"The tokenizer of {folder} never produces its token {token!r} by merging, but llama.cpp would use it.",
            hint="Set `ignore_merges` to true in tokenizer.json before training, as in Llama 3.",
        )


def _split_rule(pre_tokenizer: dict[str, Any] | None) -> str:
    """Return the regular expression of a `Split` followed by a plain `ByteLevel`, or a description of anything else."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {"type": "no pre-tokenizer"}])
    types = [step["type"] for step in steps]
    if types != ["Split", "ByteLevel"]:
        return ", ".join(types)
    split, byte_level = steps
    if byte_level.get("add_prefix_space") or byte_level.get("use_regex", True):
        return "Split, ByteLevel with additional splitting"
    if split.get("behavior") != "Isolated" or split.get("invert"):
        return f"Split, {split.get('behavior')}"
    return split["pattern"].get("Regex", str(split["pattern"]))


def _unmerged_token(tokenizer: Tokenizer, tokens: Iterable[str]) -> str | None:
    """Return a token that merges do not rebuild from its bytes, or None.

    llama.cpp's `llama-bpe` looks a whole word up in the vocabulary before it merges, so it would produce such a token.
    """
    return next((token for token in sorted(tokens) if len(tokenizer.model.tokenize(token)) != 1), None)
