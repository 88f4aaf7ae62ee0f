"""Checks of a recipe's model that need no weights: token ids, experiment trackers, and the later export."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from toolkit.errors import ExportError, ModelError, RecipeError, UnsupportedModelError
from toolkit.models.decoder_config import read_config
from toolkit.models.decoder_folder import DecoderFolder
from toolkit.models.gguf_vocabulary import GgufVocabulary
from toolkit.models.model_folder import hub_commit
from toolkit.models.model_support import is_quantized
from toolkit.models.parameters import model_config
from toolkit.prompts.ollama_template import render_ollama_template, triple_quoted
from toolkit.prompts.prompt_tokenizer import EncodedRow
from toolkit.prompts.sentence_pairs import EncodedPair, PairTokenizer, RowTokenizer
from toolkit.prompts.tokenizer import space_prefix_scheme
from toolkit.recipe.schema import Recipe


def check_tracker(recipe: Recipe) -> None:
    """Check that the package of `training.report_to` is installed, which the trainer imports after the model.

    Raises:
        RecipeError: If it is not installed.
    """
    tracker = recipe.training.report_to
    if tracker != "none" and not is_tracker_installed(tracker):
        raise RecipeError(
            f"training.report_to is {tracker}, but the package {tracker} is not installed.",
            hint=f"Install it with `pip install {tracker}`, or set training.report_to: none.",
        )


def is_tracker_installed(name: str) -> bool:
    """Return whether the package of an experiment tracker is installed."""
    if name in ("trackio", "mlflow"):
        return find_spec(name) is not None
    from transformers.integrations import is_tensorboard_available, is_wandb_available

    return {"wandb": is_wandb_available, "tensorboard": is_tensorboard_available}[name]()


def check_revision(recipe: Recipe, folder: Path) -> None:
    """Check that `model.revision` was used to download the model. It would be recorded otherwise as if it had been.

    Raises:
        ModelError: If the model is a local folder or embedded.
    """
    if recipe.model.revision is not None and hub_commit(folder) is None:
        raise ModelError(
            f"model.revision is {recipe.model.revision!r}, but {recipe.model.name} is not a model on the Hub.",
            hint="Leave out model.revision.",
        )


def check_token_ids(folder: Path, row_tokenizer: RowTokenizer, rows: Sequence[EncodedRow | EncodedPair]) -> None:
    """Check that the embeddings have a row for each token id, and each segment of a pair, that the model can get.

    Texts can contain any token that is not special. Special tokens come only from the template, which is the same for
    all rows: one that it does not use can be beyond the embedding, as in Gemma 3.

    Args:
        folder: The folder of the model.
        row_tokenizer: The converter of rows to token ids.
        rows: Encoded rows.

    Raises:
        ModelError: If a token id or a segment is beyond the embedding.
    """
    config = model_config(folder).get_text_config()
    size, segments = config.vocab_size, getattr(config, "type_vocab_size", 0)
    largest = max((max(row.segments or (0,)) for row in rows if isinstance(row, EncodedPair)), default=0)
    if segments and largest >= segments:  # DeBERTa has none and ignores them
        raise ModelError(
            f"The tokenizer numbers the texts of a pair from 0 to {largest}, but {folder} has {segments} segment "
            "embeddings (type_vocab_size).",
            hint="Remove token_type_ids from model_input_names in a copy of tokenizer_config.json.",
        )
    tokenizer = row_tokenizer.tokenizer
    beyond = {token_id: token for token, token_id in tokenizer.get_vocab().items() if token_id >= size}
    if not beyond:
        return
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = {tokenizer.unk_token_id} | {token_id for row in rows for token_id in _token_ids(row)}
    if isinstance(row_tokenizer, PairTokenizer):
        used.add(tokenizer.pad_token_id)  # rows of a decoder are padded with id 0
    for token_id, token in sorted(beyond.items()):
        if token_id not in special or token_id in used:
            raise ModelError(
                f"The tokenizer's token {token!r} has id {token_id}, but the embedding of {folder} has only {size} "
                "rows.",
                hint="The tokenizer and the weights belong to different models, or the embedding was not resized after "
                "tokens were added. Use the tokenizer of this model.",
            )


def _token_ids(row: EncodedRow | EncodedPair) -> tuple[int, ...]:
    return row.ids if isinstance(row, EncodedPair) else (*row.prompt, *row.answer)


def find_export_problem(folder: Path, row_tokenizer: RowTokenizer, longest: int) -> str | None:
    """Return the reason why the trained model cannot be exported to GGUF, or None if nothing speaks against it.

    The export checks disk space and the quantizer, too.

    Args:
        folder: The folder of the base model.
        row_tokenizer: The converter of rows to token ids.
        longest: The number of tokens of the longest row.
    """
    if isinstance(row_tokenizer, PairTokenizer):
        return "Only decoders can be exported."
    if is_quantized(folder):
        return "The adapter cannot be merged into the model's 4-bit weights. Train on its 16-bit checkpoint instead."
    tokenizer = row_tokenizer.tokenizer.backend_tokenizer
    try:
        for text in (render_ollama_template(row_tokenizer), row_tokenizer.task.system or ""):
            triple_quoted(text)
    except ExportError as error:
        return str(error)
    try:
        # The weights of a model from the Hub may not be downloaded yet.
        config = DecoderFolder(folder).config if list(folder.glob("*.safetensors")) else read_config(folder)
        # The adapter's tokenizer is exported, and it is a copy of this one.
        GgufVocabulary(tokenizer, config.vocab_size, folder)
        config.check_length(longest)
    except UnsupportedModelError as error:
        return (
            f"{error} llama.cpp's own convert_hf_to_gguf.py may support it: pass its path when exporting (converter)."
        )
    except ExportError as error:
        return str(error)
    # llama.cpp writes a space before every text or before none, even if one is there already.
    scheme, texts = space_prefix_scheme(row_tokenizer.tokenizer), row_tokenizer.template.texts_between_special_tokens()
    if (scheme == "first" and texts[0]) or (scheme == "always" and any(text.startswith(" ") for text in texts)):
        return "The tokenizer writes a space before only some texts of the chat template, which llama.cpp cannot do."
    return None
