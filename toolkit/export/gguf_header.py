"""The metadata of a GGUF file: the model's name, origin, and sizes, and its tokenizer."""

from dataclasses import dataclass

from gguf import GGUFType, GGUFWriter, RopeScalingType, size_label
from gguf.constants import GGML_QUANT_VERSION

import toolkit
from toolkit.export.gguf_tokenizer import GgufTokenizer
from toolkit.inference.model_seal import ADAPTER_KEY, BASE_KEY
from toolkit.models.decoder_config import DecoderConfig, LinearScaling
from toolkit.models.gguf_types import FileType


@dataclass(frozen=True)
class Origin:
    """The provenance of a model. Unknown fields are left out of the file.

    Args:
        recipe: SHA-256 digest of the run's recipe.yaml, in hexadecimal.
        adapter: SHA-256 digest that identifies the adapter.
        base: SHA-256 digest that identifies the base model's weights.
        base_model: The name of the base model in the recipe.
        base_revision: The commit of the base model on the Hub.
        license_: The license of the base model, as its model card gives it.
    """

    recipe: str
    base_model: str
    adapter: str | None = None
    base: str | None = None
    base_revision: str | None = None
    license_: str | None = None


def add_model(
    writer: GGUFWriter, config: DecoderConfig, spec: FileType, *, name: str, parameters: int, origin: Origin | None
) -> None:
    """Add the model's name, origin, sizes, and file type to the metadata."""
    writer.add_type(GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(size_label(parameters, 0, 0, 0))
    # A classifier should give its most likely answer. llama.cpp uses this value if the caller sets no temperature.
    writer.add_sampling_temp(0.0)
    if origin is not None:
        add_origin(writer, origin)
    _add_hyperparameters(writer, config)
    writer.add_file_type(spec.number)
    writer.add_quantization_version(GGML_QUANT_VERSION)


def add_origin(writer: GGUFWriter, origin: Origin) -> None:
    """Add the provenance of the model to the metadata."""
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, origin.base_model)
    if origin.base_revision:
        writer.add_base_model_version(0, origin.base_revision)
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{origin.base_model}")
    if origin.license_:
        writer.add_license(origin.license_)
    writer.add_string("general.toolkit.version", toolkit.__version__)
    writer.add_string("general.toolkit.recipe_sha256", origin.recipe)
    if origin.adapter and origin.base:
        writer.add_string(ADAPTER_KEY, origin.adapter)
        writer.add_string(BASE_KEY, origin.base)


def _add_hyperparameters(writer: GGUFWriter, config: DecoderConfig) -> None:
    # Keys follow llama.cpp's converter, with which tests/export/test_llama_cpp_converter.py compares. It leaves out
    # some that llama.cpp computes from others.
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if isinstance(config.rope_scaling, LinearScaling):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)
    if config.has_head_dim:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.family.rotary_pairing == "neighbors":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.head_dim)
    if config.sliding_window is not None and config.sliding_rope_theta is not None:
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base_swa(config.sliding_rope_theta)


def add_tokenizer(writer: GGUFWriter, tokenizer: GgufTokenizer) -> None:
    """Add the vocabulary, merges or scores, special token ids, and chat template to the metadata."""
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    if tokenizer.scores is not None:
        writer.add_token_scores(tokenizer.scores)
    writer.add_token_types(tokenizer.token_types)
    tokenizer.special.add_to_gguf(writer, quiet=True)
    if tokenizer.adds_space is not None:
        writer.add_add_space_prefix(tokenizer.adds_space)
