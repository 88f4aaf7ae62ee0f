"""Patterns that split a text into words before byte-level BPE merges within them, named as in llama.cpp."""

LLAMA_BPE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern of Llama 3 and SmolLM3: numbers in groups of three digits."""
QWEN2 = LLAMA_BPE.replace(r"\p{N}{1,3}", r"\p{N}")
"""The pattern of Qwen2, Qwen2.5 and Qwen3: each digit is a word."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of GPT-2, which the `ByteLevel` pre-tokenizer applies unless `use_regex` is false."""
DIGIT = r"\p{N}"
"""The pattern of the `Digits` pre-tokenizer with `individual_digits`."""

SPLIT_RULES: dict[str, tuple[str, ...]] = {
    "llama-bpe": (LLAMA_BPE,),
    "qwen2": (QWEN2,),
    "smollm": (DIGIT, GPT2),
    "gpt-2": (GPT2,),
}
"""The rules that can be exported: for each name in llama.cpp, the patterns that split a text one after another."""
IGNORES_MERGES = {"llama-bpe"}
"""The rules with which llama.cpp looks a whole word up in the vocabulary before it merges."""
