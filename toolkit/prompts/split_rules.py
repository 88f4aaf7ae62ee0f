"""Pre-tokenization patterns, which split text into words before BPE merges, named as in llama.cpp."""

LLAMA_BPE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern of Llama 3 (`llama-bpe`). A tokenizer with another pattern would get other token ids in llama.cpp."""
