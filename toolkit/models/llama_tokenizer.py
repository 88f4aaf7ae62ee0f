"""A check that llama.cpp can reproduce a tokenizer: byte-level BPE with Llama 3's split rule, and nothing else."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from toolkit.errors import ExportError
from toolkit.prompts.split_rules import LLAMA_BPE


def check_llama_tokenizer(raw: dict[str, Any], tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """Check that llama.cpp's `llama-bpe` splits every text into the same tokens as a tokenizer.

    Args:
        raw: The content of tokenizer.json.
        tokenizer: The same tokenizer, loaded.
        vocab_size: The number of rows of the embedding.
        folder: The folder of the model, for the message.

    Raises:
        ExportError: If some text would be split into different tokens, or a token has no row in the embedding.
    """
    hint = "Start from a model with Llama 3's tokenizer. llama.cpp's own converter supports others."
    model = raw.get("model") or {}
    if model.get("type") != "BPE":
        raise ExportError(f"The tokenizer of {folder} is {model.get('type')}, not byte-level BPE.", hint=hint)
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
    if (largest := max(token_ids(raw).values())) >= vocab_size:
        raise ExportError(
            f"The tokenizer of {folder} has token id {largest}, but the embedding has {vocab_size} rows.",
            hint="Resize the embedding to the tokenizer before training, or merge again with the right tokenizer.",
        )


def token_ids(raw: dict[str, Any]) -> dict[str, int]:
    """Return the id of each token of a tokenizer.json, added tokens included."""
    return raw["model"]["vocab"] | {token["content"]: token["id"] for token in raw.get("added_tokens", [])}


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
