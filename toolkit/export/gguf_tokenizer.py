"""The tokenizer of a model folder as llama.cpp wants it: byte-level BPE with Llama 3's split rule, nothing else."""

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

# It warns of every Llama 3 tokenizer, whose second text of a pair begins with a marker too.
logging.getLogger("gguf.vocab").setLevel(logging.ERROR)


@dataclass(frozen=True)
class GgufTokenizer:
    """What the `tokenizer.ggml.*` fields hold; token types as in gguf.TokenType.

    `special` has the merges, the special tokens' ids, which of them are put around a text, and the chat template.
    """

    tokens: list[str]
    token_types: list[TokenType]
    special: SpecialVocab


def read_tokenizer(folder: Path, vocab_size: int, date_string: str | None = None) -> GgufTokenizer:
    """Read tokenizer.json, tokenizer_config.json and the chat template.

    Args:
        folder: the model's folder.
        vocab_size: rows of the embedding; ids beyond the tokenizer's become unused tokens.
        date_string: today's date for the chat template, which otherwise asks the clock; None leaves it as it is.

    Raises:
        ExportError: llama.cpp's `llama-bpe` would cut some text into other tokens than this tokenizer.
    """
    raw = read_json(folder / "tokenizer.json")
    tokenizer = _load_tokenizer(folder / "tokenizer.json")
    _check_compatible(raw, tokenizer, folder)
    added = raw.get("added_tokens", [])
    ids = raw["model"]["vocab"] | {token["content"]: token["id"] for token in added}
    if max(ids.values()) >= vocab_size:
        raise ExportError(
            f"The tokenizer of {folder} has the id {max(ids.values())}, but the embedding has {vocab_size} rows.",
            hint="Resize the model's embedding to the tokenizer before training, or merge again with the right one.",
        )
    tokens, token_types = [f"[PAD{i}]" for i in range(vocab_size)], [TokenType.UNUSED] * vocab_size
    for token, token_id in ids.items():
        tokens[token_id], token_types[token_id] = token, TokenType.NORMAL
    for token in added:
        # Both engines cut USER_DEFINED tokens out of any text; CONTROL ones only out of text that may hold markers.
        token_types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    special = SpecialVocab(folder, load_merges=True, n_vocab=vocab_size)
    special.chat_template = _with_date(special.chat_template, date_string)
    return GgufTokenizer(tokens, token_types, special)


def _with_date(template: Any, date_string: str | None) -> Any:
    """A template, or several with their names, that prints the given date."""
    if template is None or date_string is None:
        return template
    if isinstance(template, str):
        return f"{{%- set date_string = {json.dumps(date_string, ensure_ascii=False)} %}}{template}"
    return [{**named, "template": _with_date(named["template"], date_string)} for named in template]


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise ExportError(f"{path} cannot be read: {error}.", hint="Merge again, or copy the file again.") from error


def _check_compatible(raw: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    hint = "Start from a model with Llama 3's tokenizer; llama.cpp's own converter knows other ones."
    model = raw.get("model") or {}
    if model.get("type") != "BPE":
        raise ExportError(f"The tokenizer of {folder} is {model.get('type')}, not byte-level BPE.", hint=hint)
    if raw.get("normalizer") is not None:
        raise ExportError(
            f"The tokenizer of {folder} normalises text ({raw['normalizer'].get('type')}); llama.cpp would not.",
            hint=hint,
        )
    if (rule := _split_rule(raw.get("pre_tokenizer"))) != LLAMA_BPE:
        raise ExportError(
            f"The tokenizer of {folder} splits words by another rule than Llama 3's ({rule}), so llama.cpp would see "
            "other tokens.",
            hint=hint,
        )
    vocabulary = model["vocab"].keys() - {token["content"] for token in raw.get("added_tokens", [])}
    if not model.get("ignore_merges") and (token := _unmerged_token(tokenizer, vocabulary)) is not None:
        raise ExportError(
            f"The tokenizer of {folder} never produces its token {token!r} by merging; llama.cpp would use it.",
            hint="Set `ignore_merges` to true in tokenizer.json before training, as Llama 3 does.",
        )


def _split_rule(pre_tokenizer: dict[str, Any] | None) -> str:
    """The regular expression of a `Split` followed by a plain `ByteLevel`; anything else is described by its types."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {"type": "no pre-tokenizer"}])
    types = [step["type"] for step in steps]
    if types != ["Split", "ByteLevel"]:
        return ", ".join(types)
    split, byte_level = steps
    if byte_level.get("add_prefix_space") or byte_level.get("use_regex", True):
        return "Split, ByteLevel with a rule of its own"
    if split.get("behavior") != "Isolated" or split.get("invert"):
        return f"Split, {split.get('behavior')}"
    return split["pattern"].get("Regex", str(split["pattern"]))


def _unmerged_token(tokenizer: Tokenizer, tokens: Iterable[str]) -> str | None:
    """A token that merging does not rebuild from its bytes; llama.cpp's `llama-bpe` takes whole words regardless."""
    return next((token for token in sorted(tokens) if len(tokenizer.model.tokenize(token)) != 1), None)
