"""The tokenizer of a model folder in GGUF's form."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import SpecialVocab, TokenType
from tokenizers import Tokenizer

from toolkit.errors import ExportError
from toolkit.models.decoder_config import read_json
from toolkit.models.gguf_vocabulary import GgufVocabulary
from toolkit.prompts.dates import pin_date

# gguf warns about every Llama 3 tokenizer because its template for text pairs starts the second text with a special
# token, too.
logging.getLogger("gguf.vocab").setLevel(logging.ERROR)


@dataclass(frozen=True)
class GgufTokenizer:
    """The contents of the `tokenizer.ggml.*` fields.

    `special` holds the merges, the ids of the special tokens, the flags that add them to a text, and the chat template.
    SentencePiece has scores instead of merges, and `adds_space` is true if a space is written before a text.
    """

    model: str
    pre: str
    tokens: list[str]
    token_types: list[TokenType]
    scores: list[float] | None
    adds_space: bool | None
    special: SpecialVocab


def read_tokenizer(folder: Path, vocab_size: int, date_string: str | None = None) -> GgufTokenizer:
    """Read tokenizer.json, tokenizer_config.json, and the chat template.

    Args:
        folder: The model folder.
        vocab_size: The number of rows of the embedding. Ids that the tokenizer does not have become unused tokens.
        date_string: The date that the chat template prints as today's. None leaves the template unchanged, and it then
            reads the clock.

    Raises:
        ExportError: If llama.cpp would split some text into different tokens than this tokenizer.
    """
    vocabulary = GgufVocabulary(_load_tokenizer(folder / "tokenizer.json"), vocab_size, folder)
    tokens, token_types = vocabulary.tokens_and_types()
    is_sentencepiece = vocabulary.model == "llama"
    special = SpecialVocab(folder, load_merges=not is_sentencepiece, n_vocab=vocab_size)
    special.chat_template = _with_date(special.chat_template, date_string)
    # The toolkit's prompts have one BOS if the tokenizer has any, whether the chat template writes it or not, and never
    # an EOS at the end. llama.cpp removes a BOS that the template writes before it adds one.
    special.add_special_token["bos"] = bool(read_json(folder / "tokenizer_config.json").get("bos_token"))
    special.add_special_token.pop("eos", None)
    return GgufTokenizer(
        model=vocabulary.model,
        pre=vocabulary.pre,
        tokens=tokens,
        token_types=token_types,
        scores=vocabulary.scores() if is_sentencepiece else None,
        adds_space=vocabulary.adds_space if is_sentencepiece else None,
        special=special,
    )


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
