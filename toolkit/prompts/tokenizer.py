"""Loading of tokenizers, and encoding of plain text and of sentence pairs."""

from pathlib import Path
from typing import Any

from toolkit.errors import ModelError


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer of a local model folder.

    Raises:
        ModelError: If the folder has no readable tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exception, and a damaged file can fail at any point
        raise ModelError(
            f"{folder} has no tokenizer that can be loaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}).",
            hint="It needs intact tokenizer.json and tokenizer_config.json files, as written by save_pretrained.",
        ) from error


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text without adding any token.

    The text is untrusted: a special token that it spells out, such as `<|eot_id|>`, is encoded as ordinary characters.
    """
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def encode_pair(tokenizer: Any, first: str, second: str) -> list[tuple[int, int]]:
    """Encode two texts as a sentence pair with the tokenizer's special tokens; those spelled out in a text stay text.

    Returns:
        The id of each token, and the text it belongs to: 0 or 1, or always 0 if the tokenizer has no token type ids.
    """
    encoding = tokenizer(
        first,
        second,
        split_special_tokens=True,
        return_token_type_ids=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    # In some vocabularies (CamemBERT's) a special token is an ordinary piece of text, too, so a text can produce it
    # despite `split_special_tokens`. Special tokens that the tokenizer did not add itself become unknown tokens.
    special_ids, unknown = set(tokenizer.all_special_ids), tokenizer.unk_token_id
    ids = [
        unknown if token in special_ids and not is_added and unknown is not None else token
        for token, is_added in zip(encoding["input_ids"], encoding["special_tokens_mask"], strict=True)
    ]
    return list(zip(ids, encoding["token_type_ids"], strict=True))
