"""Scoring with an encoder: numbers do not depend on how rows are batched, and are those of the model itself."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from toolkit.data.examples import load_examples
from toolkit.errors import RecipeError
from toolkit.inference.classifier import Classifier
from toolkit.prompts.sentence_pairs import EncodedPair, PairEncoder
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def rows(trained_encoder: RunFolder, make_encoder_recipe: MakeRecipe) -> tuple[PairEncoder, list[EncodedPair]]:
    recipe = make_encoder_recipe()
    encoder = PairEncoder(load_tokenizer(trained_encoder.adapter), recipe.task.labels, recipe.model.max_seq_length)
    return encoder, encoder.encode(load_examples(recipe, recipe.data.eval))


def test_one_row_and_many_give_equal_numbers_in_the_order_of_the_rows(
    trained_encoder: RunFolder, rows: tuple[PairEncoder, list[EncodedPair]]
) -> None:
    _, encoded = rows
    with Classifier(TrainedRun.open(trained_encoder.path, ["evaluation.batch_tokens=200"])) as classifier:
        many = classifier.label_scores(encoded)
        alone = np.concatenate([classifier.label_scores([row]).log_likelihoods for row in encoded])
    assert np.ptp(many.log_likelihoods, axis=0).max() > 0.1, "rows must differ for this test to mean anything"
    np.testing.assert_allclose(many.log_likelihoods, alone, atol=1e-5)
    np.testing.assert_allclose(np.exp(many.log_likelihoods).sum(axis=1), 1)
    assert many.decoded == [many.labels[i] for i in alone.argmax(axis=1)]


def test_a_loaded_adapter_gives_the_logits_of_the_model_that_was_saved(
    trained_encoder: RunFolder, make_encoder_recipe: MakeRecipe, rows: tuple[PairEncoder, list[EncodedPair]]
) -> None:
    from safetensors.torch import load_file

    from toolkit.models.encoder import attach_encoder_lora, load_encoder, load_encoder_for_scoring
    from toolkit.models.model_folder import find_model
    from toolkit.models.precision import Precision

    recipe, full = make_encoder_recipe(), Precision("float32", "test")
    folder = find_model(recipe.model.name)
    loaded = load_encoder_for_scoring(folder, recipe, full, trained_encoder.adapter)
    # By hand: each saved tensor put into the model that training starts from.
    by_hand = attach_encoder_lora(load_encoder(folder, recipe, full), recipe.lora, seed=recipe.seed).eval()
    names = dict(by_hand.named_parameters())
    for name, tensor in load_file(trained_encoder.adapter / "adapter_model.safetensors").items():
        name = name.replace(".weight", ".default.weight") if "lora_" in name else name
        name = name.replace(".classifier.", ".classifier.modules_to_save.default.")
        names[name].data.copy_(tensor)
    with torch.inference_mode():
        for row in rows[1][:6]:
            ids = torch.tensor([row.ids])
            torch.testing.assert_close(loaded(ids).logits, by_hand(ids).logits, rtol=0, atol=0)


def test_sixteen_bit_scores_are_close_to_those_in_32(
    trained_encoder: RunFolder, make_encoder_recipe: MakeRecipe, rows: tuple[PairEncoder, list[EncodedPair]]
) -> None:
    from toolkit.inference.encoder_scorer import EncoderScorer
    from toolkit.models.encoder import load_encoder_for_scoring
    from toolkit.models.model_folder import find_model
    from toolkit.models.precision import Precision

    encoder, encoded = rows
    recipe, scores = make_encoder_recipe(), []
    for precision in (Precision("float32", "test"), Precision("bfloat16", "test")):
        model = load_encoder_for_scoring(find_model(recipe.model.name), recipe, precision, trained_encoder.adapter)
        scores.append(EncoderScorer(model, encoder.tokenizer, precision, batch_tokens=500).score(encoded))
    # bfloat16 keeps 8 bits.
    np.testing.assert_allclose(scores[0], scores[1], atol=0.1)


def test_labels_in_another_order_than_the_heads_are_refused(
    trained_encoder: RunFolder, rows: tuple[PairEncoder, list[EncodedPair]]
) -> None:
    run = TrainedRun.open(trained_encoder.path, ["task.labels=[neutral, entailment, contradiction]"])
    outputs = r"the head of .* has the outputs \['entailment', 'neutral', 'contradiction'\]"
    with Classifier(run) as classifier, pytest.raises(RecipeError, match=outputs):
        classifier.label_scores(rows[1])
