"""The tokenizer of a model folder as llama.cpp wants it: byte-level BPE with Llama 3's split rule, nothing else."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer

from toolkit.embedded.tiny_llama import SPLIT_RULE
from toolkit.errors import ExportError
from toolkit.export.llama_config import read_json


@dataclass(frozen=True)
class GgufTokenizer:
    """What the `tokenizer.ggml.*` fields hold; token types as in gguf.TokenType, merges as "left right"."""

    tokens: list[str]
    token_types: list[TokenType]
    merges: list[str]
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    add_bos: bool


def read_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """Read tokenizer.json (and tokenizer_config.json where there is one).

    Args:
        folder: the model's folder.
        vocab_size: rows of the embedding; ids beyond the tokenizer's become unused tokens.

    Raises:
        ExportError: llama.cpp's `llama-bpe` would cut some text into other tokens than this tokenizer.
    """
    raw = read_json(folder / "tokenizer.json")
    config = _read_tokenizer_config(folder)
    tokenizer = _load(folder / "tokenizer.json")
    _refuse_other_rules(raw, tokenizer, folder)
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
    bos_id = _special_id(config, "bos_token", ids)
    return GgufTokenizer(
        tokens=tokens,
        token_types=token_types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in raw["model"]["merges"]],
        bos_id=bos_id,
        eos_id=_special_id(config, "eos_token", ids),
        pad_id=_special_id(config, "pad_token", ids),
        add_bos=_adds_bos(config, tokenizer, bos_id),
    )


def read_chat_template(folder: Path, date_string: str | None) -> str | None:
    """The folder's chat template with the date pinned in front of it; None where it has no template.

    Args:
        folder: the model's folder; chat_template.jinja comes before tokenizer_config.json, as in transformers.
        date_string: the date that the template is to print; None leaves the template as it is.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        template: str | None = file.read_text(encoding="utf-8")
    else:
        template = _template_in(_read_tokenizer_config(folder))
    if template is None or date_string is None:
        return template
    return f"{{%- set date_string = {json.dumps(date_string, ensure_ascii=False)} %}}{template}"


def _template_in(config: dict[str, Any]) -> str | None:
    template = config.get("chat_template")
    if isinstance(template, list):
        return next((named["template"] for named in template if named.get("name") == "default"), None)
    return template


def _load(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise ExportError(f"{path} cannot be read: {error}.", hint="Merge again, or copy the file again.") from error


def _read_tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _special_id(config: dict[str, Any], key: str, ids: dict[str, int]) -> int | None:
    token = config.get(key)
    return ids.get(token["content"] if isinstance(token, dict) else token) if token else None


def _adds_bos(config: dict[str, Any], tokenizer: Tokenizer, bos_id: int | None) -> bool:
    if isinstance(config.get("add_bos_token"), bool):
        return config["add_bos_token"]
    return bos_id is not None and tokenizer.encode("a").ids[:1] == [bos_id]


def _refuse_other_rules(raw: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> None:
    hint = "Start from a model with Llama 3's tokenizer; llama.cpp's own converter knows other ones."
    model = raw.get("model") or {}
    if model.get("type") != "BPE":
        raise ExportError(f"The tokenizer of {folder} is {model.get('type')}, not byte-level BPE.", hint=hint)
    if raw.get("normalizer") is not None:
        raise ExportError(
            f"The tokenizer of {folder} normalises text ({raw['normalizer'].get('type')}); llama.cpp would not.",
            hint=hint,
        )
    if (rule := _split_rule(raw.get("pre_tokenizer"))) != SPLIT_RULE:
        raise ExportError(
            f"The tokenizer of {folder} splits words by another rule than Llama 3's ({rule}), so llama.cpp would see "
            "other tokens.",
            hint=hint,
        )
    whole_words = model["vocab"].keys() - {token["content"] for token in raw.get("added_tokens", [])}
    if not model.get("ignore_merges") and (token := _unmerged_token(tokenizer, whole_words)) is not None:
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
