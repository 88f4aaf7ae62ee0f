"""Loading of tokenizers, and encoding of plain text and of sequences for encoders."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

from toolkit.errors import ModelError, first_line

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
SAMPLES = (
    "Eh bien, je ne pense même pas à cela !",
    "L'été 2024 : « 12345 pages », n'est-ce pas ?",
    "It costs 12.50 €; she didn't say (why) it is SO late.",
)
"""Sentences with spaces, accents, punctuation and numbers, on which tokenizers are checked."""
_BATCH_CHARACTERS = 100_000
"""The number of characters to encode per call: a few hundred rows, which all cores share, in a few megabytes."""
_ENCODER_KEYS = ("input_ids", "special_tokens_mask", "token_type_ids")
T = TypeVar("T")
_TOKENIZER_HINT = (
    "The folder's tokenizer.json is damaged or belongs to another model. Copy tokenizer.json and tokenizer_config.json "
    "again from the base model."
)


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the files of a tokenizer."""
    return any((folder / name).is_file() for name in _VOCABULARY_FILES)


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer of a local model folder.

    Raises:
        ModelError: If the folder has no readable tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if _encodes_like_its_file(tokenizer, folder):
            return tokenizer
        # For some tokenizer classes transformers 5 keeps only vocabulary and merges of tokenizer.json and splits text
        # by the rules of the class. DeepSeek-R1-Distill-Llama names a SentencePiece class for its byte-level BPE, which
        # loses every space. Training of the base model used the file as it is, and so does this class.
        names = tokenizer.model_input_names  # with or without token_type_ids, which the file does not say
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, model_input_names=names
        )
        _turn_off_dropout(tokenizer.backend_tokenizer)
        return tokenizer
    except BaseException as error:  # tokenizers raises plain Exception, and a damaged file can fail at any point
        if not _is_tokenizer_error(error):
            raise
        raise ModelError(
            f"{folder} has no tokenizer that can be loaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}).",
            hint="It needs intact tokenizer.json and tokenizer_config.json files, as written by save_pretrained.",
        ) from error


def _encodes_like_its_file(tokenizer: Any, folder: Path) -> bool:
    """Return whether a tokenizer gives the token ids that its tokenizer.json defines; True without such a file."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        return True
    reference = Tokenizer.from_file(str(file))
    for backend in (tokenizer.backend_tokenizer, reference):
        _turn_off_dropout(backend)
    reference.no_truncation()
    reference.no_padding()
    # SentencePiece tokenizers differ in the space that they write after a special token.
    markers = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special][:3]
    samples = [*SAMPLES, *(f"{marker}{SAMPLES[0]}{marker} {SAMPLES[1]}" for marker in markers)]
    return all(
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        == reference.encode(text, add_special_tokens=False).ids
        for text in samples
    )


def _turn_off_dropout(backend: Any) -> None:
    """Make BPE deterministic. With its dropout, every call gives other token ids, and llama.cpp has no such thing."""
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None


def without_space_prefix(tokenizer: Any) -> Any:
    """Return a tokenizer that writes no space before a text, for texts that continue another one.

    SentencePiece tokenizers write a space before a text, so that its first word is the same token as inside a sentence.
    """
    backend = tokenizer.backend_tokenizer
    normalizer, pre_tokenizer = _settings(backend.normalizer), _settings(backend.pre_tokenizer)
    kept = [step for step in normalizer.get("normalizers", []) if step["type"] != "Prepend"]
    if len(kept) < len(normalizer.get("normalizers", [])):
        normalizer["normalizers"] = kept
    elif pre_tokenizer.get("prepend_scheme", "never") != "never":
        pre_tokenizer["prepend_scheme"] = "never"
    else:
        return tokenizer
    from tokenizers import Tokenizer

    edited = {"normalizer": normalizer or None, "pre_tokenizer": pre_tokenizer or None}
    continuing = copy(tokenizer)
    continuing._tokenizer = Tokenizer.from_str(json.dumps(json.loads(backend.to_str()) | edited))
    return continuing


def space_prefix_scheme(tokenizer: Any) -> str:
    """Return before which texts a `Metaspace` pre-tokenizer writes a space: `always`, `first`, or `never`.

    `always` means before a text and after each special token, unless a space is there already; `first` excludes texts
    after special tokens. Tokenizers with another pre-tokenizer count as `never`.
    """
    return _settings(tokenizer.backend_tokenizer.pre_tokenizer).get("prepend_scheme", "never")


def normalizes_to_nfc(tokenizer: Any) -> bool:
    """Return whether a tokenizer changes texts to Unicode's NFC form, which llama.cpp does not."""
    normalizer = _settings(tokenizer.backend_tokenizer.normalizer)
    return any(step["type"] == "NFC" for step in normalizer.get("normalizers", [normalizer] if normalizer else []))


def _settings(step: Any) -> dict[str, Any]:
    """Return a normalizer or pre-tokenizer as in tokenizer.json, and an empty dictionary if there is none."""
    return json.loads(step.__getstate__()) if step else {}


def check_text_survives(tokenizer: Any) -> None:
    """Check that texts are the same after encoding and decoding, so that the model reads what the rows say.

    Raises:
        ModelError: If a sample text changes.
    """
    for text in SAMPLES:
        decoded = tokenizer.decode(encode_plain(tokenizer, text), clean_up_tokenization_spaces=False)
        if decoded.strip() != text:  # SentencePiece writes a space before the first word
            raise ModelError(
                f"The model's tokenizer changes texts: {text!r} becomes {decoded[:100]!r}.", hint=_TOKENIZER_HINT
            )


def check_spaces_survive(tokenizer: Any) -> None:
    """Check that words keep their boundaries. An encoder's tokenizer may drop case and accents, but not these.

    Raises:
        ModelError: If the tokenizer ignores spaces.
    """
    for text in SAMPLES:
        if encode_plain(tokenizer, text) == encode_plain(tokenizer, text.replace(" ", "")):
            raise ModelError(
                f"The model's tokenizer ignores spaces: {text!r} becomes the same tokens without them.",
                hint=_TOKENIZER_HINT,
            )


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """Raise a ModelError for anything that the tokenizers package raises while it encodes a text."""
    try:
        yield
    except BaseException as error:
        if not _is_tokenizer_error(error) or isinstance(error, MemoryError):
            raise
        raise ModelError(
            f"The model's tokenizer fails on a text: {first_line(error)}.",
            hint="Its tokenizer.json is damaged or not made for such texts, e.g. a regular expression of its "
            "pre-tokenizer backtracks without end. Use the tokenizer of another model.",
        ) from error


def _is_tokenizer_error(error: BaseException) -> bool:
    # A panic in Rust becomes an exception that `except Exception` does not catch, and whose class cannot be imported.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text without adding any token.

    The text is untrusted: a special token that it spells out, such as `<|eot_id|>`, is encoded as ordinary characters.

    Raises:
        ModelError: If the tokenizer fails.
    """
    with tokenizer_errors():
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def encode_plain_texts(tokenizer: Any, texts: Collection[str]) -> dict[str, list[int]]:
    """Return the token ids of each text, as `encode_plain` does, but with fewer calls, which use all cores.

    Raises:
        ModelError: If the tokenizer fails.
    """
    ids: dict[str, list[int]] = {}
    for batch in _batches(list(texts), len):
        with tokenizer_errors():
            encoding = tokenizer(
                batch,
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        ids |= dict(zip(batch, encoding["input_ids"], strict=True))
    return ids


def _batches(texts: Sequence[T], count_characters: Callable[[T], int]) -> Iterator[list[T]]:
    """Split texts into batches for which the tokenizer needs little memory."""
    batch: list[T] = []
    characters = 0
    for text in texts:
        characters += count_characters(text)
        if batch and characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], count_characters(text)
        batch.append(text)
    if batch:
        yield batch


def encode_for_encoder(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Encode one text, or a pair, with the tokenizer's special tokens; those spelled out in a text stay text.

    Returns:
        The id of each token, and the text it belongs to: 0 or 1, or always 0 if the tokenizer has no token type ids.

    Raises:
        ModelError: If the tokenizer fails.
    """
    encoding = _tokenize_for_encoder(tokenizer, *texts)
    return _add_segments(tokenizer, *(encoding[key] for key in _ENCODER_KEYS))


def encode_rows_for_encoder(tokenizer: Any, rows: Sequence[Sequence[str]]) -> list[list[tuple[int, int]]]:
    """Encode rows of one text, or of two, as `encode_for_encoder` does, but with fewer calls, which use all cores.

    Raises:
        ModelError: If the tokenizer fails.
    """
    tokens: list[list[tuple[int, int]]] = []
    for batch in _batches(rows, lambda texts: sum(map(len, texts))):
        encoding = _tokenize_for_encoder(tokenizer, *(list(texts) for texts in zip(*batch, strict=True)))
        encoded = zip(*(encoding[key] for key in _ENCODER_KEYS), strict=True)
        tokens += [_add_segments(tokenizer, *row) for row in encoded]
    return tokens


def _tokenize_for_encoder(tokenizer: Any, *texts: str | list[str]) -> Any:
    with tokenizer_errors():
        return tokenizer(
            *texts,
            split_special_tokens=True,
            return_token_type_ids=True,
            return_special_tokens_mask=True,
            verbose=False,
        )


def _add_segments(
    tokenizer: Any, ids: Sequence[int], are_added: Sequence[int], segments: Sequence[int]
) -> list[tuple[int, int]]:
    # In some vocabularies (CamemBERT's) a special token is an ordinary piece of text, too, so a text can produce it
    # despite `split_special_tokens`. Special tokens that the tokenizer did not add itself become unknown tokens.
    special_ids, unknown = set(tokenizer.all_special_ids), tokenizer.unk_token_id
    ids = [
        unknown if token in special_ids and not is_added and unknown is not None else token
        for token, is_added in zip(ids, are_added, strict=True)
    ]
    return list(zip(ids, segments, strict=True))
