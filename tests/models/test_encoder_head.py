"""Encoders whose checkpoint has a head of its own: outputs are matched with the recipe's labels by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.models.encoder_families import SMALL
from tests.models.test_encoder import FLOAT32
from toolkit.models.encoder import load_encoder
from toolkit.models.encoder_head import output_layer
from toolkit.models.parameters import model_config
from toolkit.planning.preflight import run_preflight
from toolkit.recipe.schema import Recipe

LABELS = ("entailment", "neutral", "contradiction")


def save_classifier(folder: Path, outputs: list[str], family: str = "Camembert", **fields: object) -> Path:
    options = {"relative_attention": True, "position_biased_input": False} if family == "DebertaV2" else {}
    config = getattr(transformers, f"{family}Config")(
        **SMALL, max_position_embeddings=130, pad_token_id=1, id2label=dict(enumerate(outputs)), **options
    )
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    with torch.no_grad():  # a bias tells the outputs apart
        output_layer(model, len(outputs))[1].bias.copy_(torch.arange(len(outputs)) + 1.0)
    model.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8")) | fields
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def bias_of(model: object) -> list[float]:
    return output_layer(model, 3)[1].bias.tolist()


@pytest.mark.parametrize("family", ["Camembert", "Bert", "DebertaV2", "DistilBert", "Electra"])
def test_outputs_follow_the_recipe_by_name(
    make_encoder_recipe: Callable[..., Recipe], tmp_path: Path, family: str
) -> None:
    save_classifier(tmp_path, ["CONTRADICTION", "Entailment", "neutral "], family)
    original = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    recipe = make_encoder_recipe(f"model.name={tmp_path}", "lora.target_modules=[query]", "model.max_seq_length=64")
    model = load_encoder(tmp_path, recipe, FLOAT32)
    assert bias_of(model) == [2.0, 3.0, 1.0], "entailment, neutral, contradiction"
    inputs = {"input_ids": torch.arange(4, 20)[None], "attention_mask": torch.ones(1, 16, dtype=torch.long)}
    with torch.inference_mode():
        expected = original(**inputs).logits[:, [1, 2, 0]]
        assert torch.allclose(model.eval()(**inputs).logits, expected)


@pytest.mark.parametrize(
    "outputs",
    [["LABEL_0", "LABEL_1", "LABEL_2"], ["positive", "neutral", "negative"], ["entailment", "neutral", "neutral"],
     ["entailment", "neutral", "contradiction", "other"], ["entailment", "Entailment", "neutral"]],
)  # fmt: skip
def test_head_for_other_labels_is_initialized_again(
    make_encoder_recipe: Callable[..., Recipe], tmp_path: Path, outputs: list[str]
) -> None:
    save_classifier(tmp_path, outputs)
    recipe = make_encoder_recipe(f"model.name={tmp_path}")
    model = load_encoder(tmp_path, recipe, FLOAT32)
    assert bias_of(model) == [0.0, 0.0, 0.0]
    weights = output_layer(model, 3)[1].weight
    assert torch.equal(weights, output_layer(load_encoder(tmp_path, recipe, FLOAT32), 3)[1].weight), "the seed decides"
    other = make_encoder_recipe(f"model.name={tmp_path}", "seed=7")
    assert not torch.equal(weights, output_layer(load_encoder(tmp_path, other, FLOAT32), 3)[1].weight)


def test_head_without_named_architecture_is_not_reused(
    make_encoder_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """The weights decide whether there is a head; names without `architectures` in config.json are not trusted."""
    save_classifier(tmp_path, ["contradiction", "entailment", "neutral"], architectures=None)
    recipe = make_encoder_recipe(f"model.name={tmp_path}")
    assert bias_of(load_encoder(tmp_path, recipe, FLOAT32)) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("outputs", "start", "words"),
    [
        (["contradiction", "entailment", "neutral"], "mapped", "in the order of task.labels"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], "replaced", "(LABEL_0, LABEL_1, LABEL_2) are not those of task.labels"),
        (None, "new", "new; the checkpoint has none"),
    ],
)
def test_preflight_and_record_name_the_start(
    make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path, tmp_path: Path, outputs: list[str] | None,
    start: str, words: str,
) -> None:  # fmt: skip
    folder = tiny_encoder
    if outputs:
        config = model_config(tiny_encoder)
        config.id2label = dict(enumerate(outputs))
        folder = tmp_path / "model"
        transformers.CamembertForSequenceClassification(config).save_pretrained(folder)
        for path in tiny_encoder.glob("*token*"):
            (folder / path.name).write_bytes(path.read_bytes())
    preflight = run_preflight(make_encoder_recipe(f"model.name={folder}"))
    assert preflight.record()["model"]["head"]["start"] == start
    (line,) = [line for line in preflight.report().splitlines() if line.startswith("head ")]
    assert words in line
