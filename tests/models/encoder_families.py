"""Small random encoders of each family that `lora.target_modules: auto` knows, made from their configurations."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_POSITIONS = 130


@dataclass(frozen=True)
class EncoderFamily:
    """A family of encoders and what is expected of it.

    Args:
        name: The name of its classes in transformers.
        targets: The layers that `auto` takes.
        head: The modules that are not pre-trained.
        longest: The number of tokens that it has positions for, or None if they are relative.
        options: Further options of its configuration.
    """

    name: str
    targets: tuple[str, ...]
    head: tuple[str, ...] = ("classifier",)
    longest: int | None = _POSITIONS
    options: dict[str, Any] = field(default_factory=dict)


_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
FAMILIES = (
    EncoderFamily("Bert", ("query", "value"), head=("classifier", "pooler")),
    EncoderFamily("Roberta", ("query", "value"), longest=_POSITIONS - 1),
    EncoderFamily("Camembert", ("query", "value"), longest=_POSITIONS - 1),
    EncoderFamily("XLMRoberta", ("query", "value"), longest=_POSITIONS - 1),
    EncoderFamily("Electra", ("query", "value"), options={"embedding_size": 16}),
    EncoderFamily("Deberta", ("in_proj",), head=("classifier", "pooler"), options=_RELATIVE),
    EncoderFamily(
        "DebertaV2",
        ("query_proj", "value_proj"),
        head=("classifier", "pooler"),
        longest=None,
        options={**_RELATIVE, "position_biased_input": False},
    ),
    EncoderFamily("DistilBert", ("q_lin", "v_lin"), head=("classifier", "pre_classifier")),
    EncoderFamily("ModernBert", ("Wqkv",), head=("classifier", "head")),
)


def save_encoder(family: EncoderFamily, folder: Path) -> Path:
    """Write a random encoder of a family, without a head, and a tokenizer of words that returns token type ids."""
    import tokenizers
    import torch
    import transformers
    from tokenizers.processors import TemplateProcessing

    import toolkit.models.backend  # noqa: F401 - Unsloth must be imported before transformers
    from toolkit.embedded import nli_fr

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="<unk>"))  # noqa: S106
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.WordLevelTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    words.train_from_iterator((row["premise"] for row in nli_fr.load_split("train")), trainer)
    words.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", cls_token="<s>", sep_token="</s>", unk_token="<unk>",  # noqa: S106
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    ids = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    config = getattr(transformers, f"{family.name}Config")(
        **SMALL, **ids, **family.options, vocab_size=len(tokenizer), max_position_embeddings=_POSITIONS,
        initializer_range=0.2,  # large enough that the scores of the rows differ
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{family.name}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
