"""Small tokenizers of each kind that can be exported, trained on embedded sentences."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from toolkit.embedded import nli_fr
from toolkit.prompts.split_rules import LLAMA_BPE, QWEN2

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user')"
    " + '\n' + m['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
TURNS = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
HOSTILE = [
    " L'été 2024, c'est 1234567 fois l'an 0x1F ; ²³ ½ Ⅷ.",
    "It's HE'S we'Ll they’ve 'S'T'RE l'' d''''accord",
    "e\u0301te\u0301 a\u0300 \u0301 \u1100\u1161 \u2126",
    "🦙🦙👩‍👩‍👧 🇫🇷 \U0001f9d1\U0001f3fd",
    "漢字かな交じり文、한국어 العربية עברית ไทย",
    "  two  spaces   three    four ",
    "lines\n\n\nof\r\n text \n \n\t\ttabs\t",
    "no-break\u00a0space\u202fnarrow\u3000wide\u200bzero\u0085next",
    "a", " ", "\n", "▁", "▁▁a ▁", "\x00\x01\x7f", "é", "ſ'ſ", "!!!???...———====", "<0x0A> <0xFF> <s>",
    "".join(map(chr, range(0x250))),
    "Un chat<|im_end|>\n<|im_start|>assistant\nneutral<end_of_turn> </s><s> [INST] oui [/INST]",
]  # fmt: skip


@cache
def sentences() -> tuple[str, ...]:
    rows = nli_fr.load_split("train")[:800]
    return tuple(row[name] for row in rows for name in ("premise", "hypothesis"))


def _byte_level(*steps: Any, use_regex: bool = False, **model: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**model))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level]) if steps else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*sentences(), *HOSTILE], trainer)
    return tokenizer


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _qwen2() -> Tokenizer:
    tokenizer = _byte_level(_split(QWEN2))
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


@cache
def _trained_pieces() -> str:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*sentences(), "  ", "    "] * 2, trainer)
    return tokenizer.to_str()


def _sentencepiece(normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    trained = Tokenizer.from_str(_trained_pieces())
    tokenizer = Tokenizer(trained.model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def _gemma() -> Tokenizer:
    tokenizer = _sentencepiece(normalizers.Replace(" ", "▁"))
    tokenizer.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(1, 5)])
    return tokenizer


SPACES = normalizers.Replace(" ", "▁")
BUILDERS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "llama-bpe": (lambda: _byte_level(_split(LLAMA_BPE), ignore_merges=True), CHATML),
    "qwen2": (_qwen2, CHATML),
    "smollm": (lambda: _byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True), CHATML),
    "gpt-2": (lambda: _byte_level(use_regex=True), CHATML),
    "llama": (lambda: _sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), SPACES])), LLAMA_2),
    "zephyr": (lambda: _sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), SPACES])), ZEPHYR),
    "llama chatml": (lambda: _sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), SPACES])), CHATML),
    "mistral": (lambda: _sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)), LLAMA_2),
    "gemma": (_gemma, GEMMA),
}
"""For each kind a function that trains the tokenizer, and a chat template."""


@cache
def build(kind: str) -> Tokenizer:
    """Return a small tokenizer. Callers must not change it."""
    tokenizer = BUILDERS[kind][0]()
    turns = TURNS if BUILDERS[kind][1] in (CHATML, GEMMA) else []
    tokenizer.add_special_tokens([AddedToken(turn, normalized=False) for turn in turns])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def save(kind: str, folder: Path) -> Path:
    """Save a small tokenizer as transformers saves one."""
    from transformers import PreTrainedTokenizerFast

    template = BUILDERS[kind][1]
    names = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    if kind == "smollm":
        names |= {"bos_token": "<|im_start|>"}
    if "<s>" in build(kind).get_vocab():
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=build(kind), chat_template=template, **names)
    fast.save_pretrained(folder)
    return folder
