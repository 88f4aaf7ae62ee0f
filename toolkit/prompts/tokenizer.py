"""A model's tokenizer, and the two ways in which text becomes ids: plain text, and an encoder's sentence pair."""

from pathlib import Path
from typing import Any

from toolkit.errors import ModelError


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a local model folder.

    Raises:
        ModelError: the folder has no tokenizer that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers package raises nothing narrower, and a damaged file breaks it anywhere
        raise ModelError(
            f"{folder} has no tokenizer that can be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}).",
            hint="It needs a whole tokenizer.json and tokenizer_config.json, as save_pretrained writes them.",
        ) from error


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text alone: nothing is added, and a marker such as `<|eot_id|>` in it stays text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def encode_pair(tokenizer: Any, first: str, second: str) -> list[tuple[int, int]]:
    """Two texts as the tokenizer's sentence pair, its markers added; the same characters in a text stay text.

    Returns:
        For each token its id and the text it belongs to, 0 or 1 (0 throughout where the tokenizer does not tell).
    """
    encoding = tokenizer(
        first,
        second,
        split_special_tokens=True,
        return_token_type_ids=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    # Some vocabularies (CamemBERT's) have a marker as a piece of text too.
    markers, unknown = set(tokenizer.all_special_ids), tokenizer.unk_token_id
    ids = [
        unknown if token in markers and not is_added and unknown is not None else token
        for token, is_added in zip(encoding["input_ids"], encoding["special_tokens_mask"], strict=True)
    ]
    return list(zip(ids, encoding["token_type_ids"], strict=True))
