"""Scoring with an encoder: scores do not depend on batching and equal those of the model itself."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from toolkit.data.examples import load_examples
from toolkit.errors import RecipeError
from toolkit.inference.classifier import Classifier
from toolkit.prompts.sentence_pairs import EncodedPair, PairTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def rows(trained_encoder: RunFolder, make_encoder_recipe: MakeRecipe) -> tuple[PairTokenizer, list[EncodedPair]]:
    recipe = make_encoder_recipe()
    tokenizer = load_tokenizer(trained_encoder.adapter)
    pair_tokenizer = PairTokenizer(tokenizer, recipe.task, recipe.model.max_seq_length)
    return pair_tokenizer, pair_tokenizer.encode(load_examples(recipe, recipe.data.eval))


def test_batching_does_not_change_scores(
    trained_encoder: RunFolder, rows: tuple[PairTokenizer, list[EncodedPair]]
) -> None:
    _, encoded = rows
    with Classifier(TrainedRun.open(trained_encoder.path, ["evaluation.batch_tokens=200"])) as classifier:
        batched = classifier.score_labels(encoded)
        separate = np.concatenate([classifier.score_labels([row]).log_likelihoods for row in encoded])
    assert np.ptp(batched.log_likelihoods, axis=0).max() > 0.1, "if rows had equal scores, their order would not matter"
    np.testing.assert_allclose(batched.log_likelihoods, separate, atol=1e-5)
    np.testing.assert_allclose(np.exp(batched.log_likelihoods).sum(axis=1), 1)
    assert batched.decoded == [batched.labels[i] for i in separate.argmax(axis=1)]


def test_loaded_adapter_gives_saved_logits(
    trained_encoder: RunFolder, make_encoder_recipe: MakeRecipe, rows: tuple[PairTokenizer, list[EncodedPair]]
) -> None:
    from safetensors.torch import load_file

    from toolkit.models.encoder import attach_encoder_lora, load_encoder, load_encoder_for_scoring
    from toolkit.models.model_folder import find_model
    from toolkit.models.precision import Precision

    recipe, precision = make_encoder_recipe(), Precision("float32", "test")
    folder = find_model(recipe.model.name)
    loaded = load_encoder_for_scoring(folder, recipe, precision, trained_encoder.adapter)
    # The expected model: each saved tensor is copied into the model that training starts from.
    expected = attach_encoder_lora(load_encoder(folder, recipe, precision), recipe.lora, seed=recipe.seed).eval()
    parameters = dict(expected.named_parameters())
    for name, tensor in load_file(trained_encoder.adapter / "adapter_model.safetensors").items():
        name = name.replace(".weight", ".default.weight") if "lora_" in name else name
        name = name.replace(".classifier.", ".classifier.modules_to_save.default.")
        parameters[name].data.copy_(tensor)
    with torch.inference_mode():
        for row in rows[1][:6]:
            ids = torch.tensor([row.ids])
            torch.testing.assert_close(loaded(ids).logits, expected(ids).logits, rtol=0, atol=0)


def test_bfloat16_scores_are_close_to_float32(
    trained_encoder: RunFolder, make_encoder_recipe: MakeRecipe, rows: tuple[PairTokenizer, list[EncodedPair]]
) -> None:
    from toolkit.inference.encoder_scorer import EncoderScorer
    from toolkit.models.encoder import load_encoder_for_scoring
    from toolkit.models.model_folder import find_model
    from toolkit.models.precision import Precision

    pair_tokenizer, encoded = rows
    recipe, scores = make_encoder_recipe(), []
    for precision in (Precision("float32", "test"), Precision("bfloat16", "test")):
        model = load_encoder_for_scoring(find_model(recipe.model.name), recipe, precision, trained_encoder.adapter)
        scorer = EncoderScorer(model, pair_tokenizer.tokenizer, precision, batch_tokens=500, max_length=64)
        scores.append(scorer.score(encoded))
    # bfloat16 has 8 bits of precision.
    np.testing.assert_allclose(scores[0], scores[1], atol=0.1)


def test_reordered_labels_are_refused(
    trained_encoder: RunFolder, rows: tuple[PairTokenizer, list[EncodedPair]]
) -> None:
    run = TrainedRun.open(trained_encoder.path, ["task.labels=[neutral, entailment, contradiction]"])
    outputs = r"the head of .* has the outputs \['entailment', 'neutral', 'contradiction'\]"
    with Classifier(run) as classifier, pytest.raises(RecipeError, match=outputs):
        classifier.score_labels(rows[1])
