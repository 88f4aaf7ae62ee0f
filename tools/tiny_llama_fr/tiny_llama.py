"""The architecture and tokenizer of the embedded model, a small version of Llama 3.

The tokenizer is byte-level BPE with the split rule, special tokens and `ignore_merges` of Llama 3, so llama.cpp reads
it as `llama-bpe`. As in Llama 3, the special tokens come after the learned vocabulary.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from toolkit.prompts.split_rules import LLAMA_BPE
from tools.tiny_llama_fr.documents import Document

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY_SIZE = 3072
CONTEXT_LENGTH = 512

BOS, END_OF_TEXT, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
START_HEADER, END_HEADER, EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
SPECIAL_TOKENS = (BOS, END_OF_TEXT, PAD, START_HEADER, END_HEADER, EOT)

CHAT_TEMPLATE = r"""{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""


def tokenizer_texts(document: Document) -> list[str]:
    """Return the texts that a tokenizer is trained on: those between special tokens, and the verdicts."""
    if not document.user:
        return [document.answer]
    verdicts = [f" {verdict}" for verdict in (*(mark.verdict for mark in document.marks), *document.closing)]
    return [text for role, content in document.turns for text in (role, f"\n\n{content}")] + verdicts


def build_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> "PreTrainedTokenizerFast":
    """Train a tokenizer.

    Args:
        texts: The training texts. All other texts can be encoded too, with single bytes if necessary.
        vocabulary_size: The number of learned tokens plus special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_BPE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(SPECIAL_TOKENS),
        # All 256 byte symbols, sorted so that the token ids do not depend on the order of `alphabet()`.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS}:1 $B:1",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOT,
        pad_token=PAD,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: "PreTrainedTokenizerFast", seed: int = 0, layers: int = 4) -> "LlamaForCausalLM":
    """Build a Llama with random float32 weights, grouped-query attention and tied embeddings.

    The default of 4 layers has about 3 million parameters. The rows of every matrix have a multiple of 256 values,
    because GGUF types quantize rows in blocks of 32 (q8_0) or 256 values (k-quants).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).float()
