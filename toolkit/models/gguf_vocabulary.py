"""The vocabulary of a tokenizer in GGUF's terms, refused if llama.cpp would split some text into other tokens.

llama.cpp has two algorithms for BPE. Byte-level BPE (`gpt2`) splits a text into words by a rule that it knows by name,
and merges pairs in the order of the list of merges. SentencePiece (`llama`) writes spaces as U+2581, has no words, and
merges any two neighbors whose concatenation is a token, by the token's score. The two orders agree if every token is
built by its own merges: the last of them gives its score.
"""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer

from toolkit.errors import ExportError, UnsupportedModelError
from toolkit.prompts.split_rules import DIGIT, GPT2, IGNORES_MERGES, SPLIT_RULES

_SPACE = "\u2581"  # "▁", SentencePiece's space
_BYTE_TOKENS = {f"<0x{byte:02X}>" for byte in range(256)}


class GgufVocabulary:
    """The vocabulary of a tokenizer that llama.cpp can reproduce.

    Args:
        tokenizer: The tokenizer.
        vocab_size: The number of rows of the embedding.
        folder: The folder of the model, for messages.

    Raises:
        ExportError: If some text would be split into other tokens, or a token has no row in the embedding.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._folder = folder
        self._raw = json.loads(tokenizer.to_str())  # in one format, whatever the version that wrote the file
        self._bpe: dict[str, Any] = self._raw["model"]
        self._added: list[dict[str, Any]] = self._raw["added_tokens"]
        if self._bpe["type"] != "BPE":
            raise self._error(f"is a {self._bpe['type']} model, and only BPE can be exported.")
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if self._bpe[name]:
                raise self._error(f"marks parts of words ({name}), which llama.cpp cannot do.")
        is_byte_level = any(step["type"] == "ByteLevel" for step in self._steps("pre_tokenizer"))
        self.model = "gpt2" if is_byte_level else "llama"
        """The value of `tokenizer.ggml.model`: `gpt2` for byte-level BPE, or `llama` for SentencePiece."""
        self.pre = self._split_rule() if is_byte_level else "default"
        """The value of `tokenizer.ggml.pre`: the rule that splits a text into words. SentencePiece has none."""
        self.adds_space = not is_byte_level and self._find_space_prefix()
        """True if llama.cpp must write a space before a text, and after each special token."""
        self._check_added_tokens()
        self._check_merges()
        self._check_embedding()

    def tokens_and_types(self) -> tuple[list[str], list[TokenType]]:
        """Return the text and the type of each row of the embedding. Rows without a token are unused."""
        tokens = [f"[PAD{i}]" for i in range(self.vocab_size)]
        types = [TokenType.UNUSED] * self.vocab_size
        for token, token_id in self._bpe["vocab"].items():
            tokens[token_id], types[token_id] = token, TokenType.NORMAL
            if self.model == "llama" and token in _BYTE_TOKENS:
                types[token_id] = TokenType.BYTE
        for added in self._added:
            if added["id"] < self.vocab_size:
                tokens[added["id"]], types[added["id"]] = added["content"], self._added_type(added)
        return tokens, types

    def scores(self) -> list[float]:
        """Return SentencePiece's score of each token: 0 for the first merge, -1 for the second, and so on."""
        ranks = {(left, right): rank for rank, (left, right) in enumerate(self._bpe["merges"])}
        by_token: dict[str, list[int]] = defaultdict(list)
        for (left, right), rank in ranks.items():
            by_token[left + right].append(rank)
        final: dict[str, int] = {}
        for token, token_ranks in by_token.items():
            # Only one of a token's merges ever happens. Which one does not matter if no merge of another token lies in
            # between.
            is_contiguous = token_ranks[-1] - token_ranks[0] == len(token_ranks) - 1
            final[token] = token_ranks[0] if is_contiguous else _last_merge(token, ranks)
        scores = [0.0] * self.vocab_size
        for position, token in enumerate(sorted(final, key=lambda token: final[token])):
            scores[self._bpe["vocab"][token]] = -float(position)
        return scores

    def _steps(self, name: str) -> list[dict[str, Any]]:
        """Return the steps of the normalizer or pre-tokenizer, which may be a sequence or missing."""
        step = self._raw.get(name)
        return [] if step is None else step.get(f"{name}s", step.get("pretokenizers", [step]))

    def _error(self, problem: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"The tokenizer of {self._folder} {problem}")

    def _split_rule(self) -> str:
        if other := [step["type"] for step in self._steps("normalizer") if step["type"] != "NFC"]:
            raise self._error(f"normalizes text ({', '.join(other)}), which llama.cpp cannot do.")
        patterns = tuple(pattern for step in self._steps("pre_tokenizer") for pattern in _patterns(step))
        rule = next((name for name, known in SPLIT_RULES.items() if known == patterns), None)
        if rule is None:
            raise self._error(
                f"splits words by a rule ({', '.join(patterns)}) other than {', '.join(SPLIT_RULES)}, so llama.cpp "
                "would see different tokens."
            )
        return rule

    def _find_space_prefix(self) -> bool:
        """Return whether a space is written before a text and after each special token."""
        if missing := _BYTE_TOKENS - self._bpe["vocab"].keys():
            raise self._error(f"lacks {len(missing)} of the 256 byte tokens ({min(missing)}), which llama.cpp needs.")
        if not self._bpe.get("byte_fallback"):
            raise self._error("does not write unknown characters as bytes (byte_fallback), as llama.cpp does.")
        # Older Gemma tokenizers split at spaces that their normalizer has already replaced, which does nothing.
        pre_tokenizers = [step for step in self._steps("pre_tokenizer") if step.get("pattern") != {"String": " "}]
        steps = [*self._steps("normalizer"), *pre_tokenizers]
        match [step["type"] for step in steps]:
            case ["Replace"] if _replaces_spaces(steps[0]):
                return False
            case ["Prepend", "Replace"] if steps[0]["prepend"] == _SPACE and _replaces_spaces(steps[1]):
                return True
            case ["Metaspace"] if steps[0]["replacement"] == _SPACE and not self._splits_tokens(steps[0]):
                # With `first`, only a text that does not start with a special token gets a space, and a prompt always
                # starts with one.
                return steps[0]["prepend_scheme"] == "always"
            case types:
                raise self._error(f"prepares texts in other steps ({', '.join(types)}) than llama.cpp's SentencePiece.")

    def _splits_tokens(self, metaspace: dict[str, Any]) -> bool:
        return metaspace["split"] and any(_SPACE in token[1:] for token in self._bpe["vocab"])

    def _check_added_tokens(self) -> None:
        # Special tokens cannot cause a difference: the toolkit never finds one in a text of a row, and never removes
        # the spaces around one.
        prepends = any(step["type"] == "Prepend" for step in self._steps("normalizer"))
        for token in self._added:
            flags = [name for name in ("lstrip", "rstrip", "single_word") if token[name]]
            if token["normalized"] and prepends:
                flags.append("normalized")
            if flags and not token["special"]:
                raise self._error(
                    f"matches its token {token['content']!r} by rules that llama.cpp lacks ({', '.join(flags)})."
                )

    def _check_merges(self) -> None:
        """Check that llama.cpp builds exactly those tokens that the tokenizer builds."""
        looks_up, llama_cpp_looks_up = bool(self._bpe["ignore_merges"]), self.pre in IGNORES_MERGES
        if looks_up == llama_cpp_looks_up and self.model == "gpt2":
            return
        words = self._tokenizer
        if looks_up:
            words = Tokenizer.from_str(words.to_str())
            words.model.ignore_merges = False
        added = {token["content"] for token in self._added}
        for token in sorted(self._bpe["vocab"].keys() - added - _BYTE_TOKENS):
            pieces = [piece.value for piece in words.model.tokenize(token)]
            if len(pieces) == 1:
                continue
            # llama.cpp's SentencePiece cannot build a token either if the merges leave three or more pieces of it.
            if looks_up == llama_cpp_looks_up and len(pieces) > 2 and not _BYTE_TOKENS.intersection(pieces):
                continue
            program = "the tokenizer" if looks_up else "llama.cpp"
            problem = f"never produces its token {token!r} by merging, but {program} would use it."
            if not llama_cpp_looks_up:
                raise self._error(problem)
            raise ExportError(
                f"The tokenizer of {self._folder} {problem}",
                hint="Set `ignore_merges` to true in tokenizer.json before training, as in Llama 3.",
            )

    def _check_embedding(self) -> None:
        # planning.model_checks.check_token_ids refuses prompts with a special token beyond the embedding.
        special = {token["id"] for token in self._added if token["special"]}
        ids = {*self._bpe["vocab"].values(), *(token["id"] for token in self._added)}
        largest = max(ids - special)
        if largest >= self.vocab_size:
            raise ExportError(
                f"The tokenizer of {self._folder} has token id {largest}, but the embedding has "
                f"{self.vocab_size} rows.",
                hint="Resize the embedding to the tokenizer before training, or merge again with the right tokenizer.",
            )

    def _added_type(self, token: dict[str, Any]) -> TokenType:
        if self.model == "llama" and token["content"] == self._bpe.get("unk_token"):
            return TokenType.UNKNOWN
        if token["special"]:
            return TokenType.CONTROL
        # Both the tokenizers package and llama.cpp match USER_DEFINED tokens in any text, and CONTROL tokens only where
        # special tokens are allowed. No text contains SentencePiece's space, so merges alone produce such a token.
        return TokenType.NORMAL if self.model == "llama" and _SPACE in token["content"] else TokenType.USER_DEFINED


def _patterns(step: dict[str, Any]) -> list[str]:
    """Return the patterns by which a step of a byte-level pre-tokenizer splits, or a description of anything else."""
    match step:
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return [pattern]
        case {"type": "Digits", "individual_digits": True}:
            return [DIGIT]
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}:
            return [GPT2] if use_regex else []
    return [f"{step['type']} with {', '.join(f'{key} {value}' for key, value in step.items() if key != 'type')}"]


def _replaces_spaces(step: dict[str, Any]) -> bool:
    return step["pattern"] == {"String": " "} and step["content"] == _SPACE


def _last_merge(token: str, ranks: dict[tuple[str, str], int]) -> int:
    """Return the rank of the merge that completes a token, or the number of all merges if they do not build it."""
    symbols = list(token)
    while True:
        rank, index = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(symbols)))
        if rank == len(ranks) or len(symbols) == 2:
            return rank
        symbols[index : index + 2] = [symbols[index] + symbols[index + 1]]
