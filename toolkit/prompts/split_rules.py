"""How tokenizers cut text into words before they merge bytes, by llama.cpp's names for these rules."""

LLAMA_BPE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's rule: what a token may span. With any other rule llama.cpp would cut words elsewhere."""
