"""Label scorers of a trained model refuse useless scores; those of a model in training leave them to its training."""

from typing import Any

import numpy as np
import pytest
import torch

from toolkit.errors import ModelError
from toolkit.inference.label_scorers import HeadLabelScorer, TrieLabelScorer
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.torch_scorer import TorchScorer
from toolkit.prompts.prompt_tokenizer import EncodedRow
from toolkit.prompts.sentence_pairs import EncodedPair

TRIE = LabelTrie({"yes": (20,), "no": (30,)})
CONSTANT, WITH_NAN = np.tile([-1.0, -2.0], (9, 1)), np.array([[-1.0, float("nan")]] * 9)


class FixedScorer:
    """An engine that returns the same scores for any rows."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def score(self, _: Any) -> np.ndarray:
        return self.scores


@pytest.mark.parametrize(
    ("scores", "message"), [(CONSTANT, "do not depend on its input"), (WITH_NAN, "returned NaN or inf for 9 rows")]
)
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_only_trained_models_must_be_useful(scores: np.ndarray, message: str, kind: str) -> None:
    """A model can collapse while it is trained, and recover; the log shows it."""
    engine = FixedScorer(scores)

    def label_scorer(*, is_trained: bool) -> Any:
        if kind == "decoder":
            return TrieLabelScorer(engine, TRIE, is_trained=is_trained)
        return HeadLabelScorer(engine, ("yes", "no"), is_trained=is_trained)

    rows: list[Any] = [
        EncodedRow((1, row), ()) if kind == "decoder" else EncodedPair((1, row), None, 0) for row in range(9)
    ]
    with pytest.raises(ModelError, match=message):
        label_scorer(is_trained=True).score_labels(rows)
    np.testing.assert_array_equal(label_scorer(is_trained=False).score_labels(rows).log_likelihoods, scores)


def test_scoring_leaves_no_inference_tensors(tiny_model: Any) -> None:
    """A tensor that a model caches during a validation can be needed by the next training step."""
    from toolkit.models.backend import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    outputs: list[torch.Tensor] = []
    model.get_decoder().rotary_emb.register_forward_hook(lambda _, __, result: outputs.extend(result))
    TorchScorer(model, TRIE, batch_tokens=64).score([(1, 2, 3), (1, 2, 4, 5)])
    assert outputs and not any(output.is_inference() for output in outputs)
