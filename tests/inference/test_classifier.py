"""The classifier: its methods, the model that stays loaded between calls, and the rows that it refuses."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from toolkit.data.examples import load_examples
from toolkit.errors import DataError, ModelError, RunError
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference import classifier as module
from toolkit.inference.classifier import Classifier
from toolkit.inference.loading import load_torch_model
from toolkit.inference.prediction import predict_row
from toolkit.models.attention import unwrap_peft
from toolkit.models.merging import merge_adapter
from toolkit.models.model_folder import find_base
from toolkit.models.tree_attention import UNSLOTH_FLAGS
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

ADAPTER, LABELS = ModelRef("adapter"), ("entailment", "neutral", "contradiction")


@pytest.fixture(scope="module")
def run(trained: RunFolder) -> TrainedRun:
    return TrainedRun.open(trained.path)


@pytest.fixture(scope="module")
def pairs(run: TrainedRun) -> list[tuple[str, str]]:
    return [row.texts for row in load_examples(run.recipe, run.recipe.data.eval)]


@pytest.fixture(scope="module")
def gguf(run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tmp_path_factory.mktemp("gguf")
    merge_adapter(find_base(run), run.folder.adapter, folder / "merged")
    date = run.recipe.task.date_string
    write_gguf(folder / "merged", folder / "small-f32.gguf", "f32", date_string=date, name="small")
    return ModelRef.parse(folder / "small-f32.gguf")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Weak references to the torch models that were loaded since the test started."""
    models: list[weakref.ref[Any]] = []

    def load(*arguments: Any) -> Any:
        model = load_torch_model(*arguments)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(module, "load_torch_model", load)
    return models


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions that opened llama.cpp since the test started."""
    from toolkit.inference import generation

    names: list[str] = []
    for owner, name in ((module, "open_scorer"), (generation, "open_gguf_generator")):
        open_engine = getattr(owner, name)

        def record_and_open(*arguments: Any, _name: str = name, _open: Callable[..., Any] = open_engine) -> Any:
            names.append(_name)
            return _open(*arguments)

        monkeypatch.setattr(owner, name, record_and_open)
    return names


def test_all_row_formats_are_accepted(run: TrainedRun, pairs: list[tuple[str, str]]) -> None:
    with Classifier(run) as classifier:
        expected = classifier.predict(pairs)
        dictionaries = [{"premise": premise, "hypothesis": hypothesis, "n": 1} for premise, hypothesis in pairs]
        assert classifier.predict([list(pair) for pair in pairs]) == expected
        assert classifier.predict(dictionaries) == expected
        assert classifier.predict(pandas.DataFrame(dictionaries)) == expected
        assert classifier.predict(pair for pair in pairs) == expected
    assert len(expected) == 24 and set(expected) <= set(LABELS) and len(set(expected)) > 1


def test_recipe_names_the_columns(trained: RunFolder, run: TrainedRun, pairs: list[tuple[str, str]]) -> None:
    renamed = TrainedRun.open(trained.path, {"data.columns.premise": "a", "data.columns.hypothesis": "b"})
    with Classifier(renamed) as classifier:
        predicted = classifier.predict([{"a": premise, "b": hypothesis} for premise, hypothesis in pairs])
        assert predicted == classifier.predict(pairs) == Classifier(run).predict(pairs)


def test_probabilities_are_float64_and_sum_to_one(run: TrainedRun, pairs: list[tuple[str, str]]) -> None:
    with Classifier(run) as classifier:
        probabilities = classifier.predict_proba(pairs)
        prediction = predict_row(classifier, dict(zip(("premise", "hypothesis"), pairs[0], strict=True)))
    assert probabilities.shape == (24, 3) and probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert np.ptp(probabilities, axis=0).min() > 0.1, "rows with equal probabilities would prove nothing"
    np.testing.assert_allclose(prediction.probabilities, probabilities[0], atol=1e-5)


def test_probability_columns_follow_classes(trained: RunFolder, run: TrainedRun, pairs: list[tuple[str, str]]) -> None:
    """Each column is the score of its label's complete sequence, including the end of turn, under the model itself."""
    reordered_run = TrainedRun.open(trained.path, {"task.labels": ["contradiction", "entailment", "neutral"]})
    with Classifier(run) as classifier, Classifier(reordered_run) as reordered:
        actual = classifier.predict_proba(pairs[:3])
        np.testing.assert_allclose(reordered.predict_proba(pairs[:3]), actual[:, [2, 0, 1]], atol=1e-5)
        assert classifier.classes_ == LABELS and reordered.classes_ == ("contradiction", "entailment", "neutral")
        rows, label_ids = classifier.encode(pairs[:3]), classifier.row_tokenizer.label_ids  # type: ignore[union-attr]
    model = load_torch_model(run, ADAPTER)
    for row, probabilities in zip(rows, actual, strict=True):
        likelihoods = []
        for label in LABELS:
            ids = torch.tensor([[*row.prompt, *label_ids[label]]])
            with torch.inference_mode():
                log_probs = model(input_ids=ids).logits[0].double().log_softmax(-1)
            likelihoods.append(sum(log_probs[i - 1, ids[0, i]] for i in range(len(row.prompt), ids.shape[1])))
        np.testing.assert_allclose(probabilities, torch.stack(likelihoods).softmax(0).numpy(), atol=1e-4)


def test_score_is_accuracy(run: TrainedRun, pairs: list[tuple[str, str]]) -> None:
    with Classifier(run) as classifier:
        predicted = classifier.predict(pairs[:4])
        wrong = next(label for label in LABELS if label != predicted[0])
        assert classifier.score(pairs[:4], predicted) == 1
        assert classifier.score(pairs[:4], [wrong, *predicted[1:]]) == 0.75
        with pytest.raises(DataError, match="There are 4 rows but 3 labels"):
            classifier.score(pairs[:4], predicted[:3])


def test_no_rows_give_empty_results(run: TrainedRun, loaded: list[Any]) -> None:
    classifier = Classifier(run)
    assert classifier.predict([]) == [] and classifier.predict_proba([]).shape == (0, 3)
    assert np.isnan(classifier.score([], []))
    assert not loaded


def test_generate_is_greedy(run: TrainedRun, pairs: list[tuple[str, str]]) -> None:
    with Classifier(run) as classifier:
        answers = classifier.generate(pairs[:4])
        rows, row_tokenizer = classifier.encode(pairs[:4]), classifier.row_tokenizer
    longest = max(map(len, row_tokenizer.label_ids.values())) + 4  # type: ignore[union-attr]
    model = load_torch_model(run, ADAPTER)
    for row, answer in zip(rows, answers, strict=True):
        generated: list[int] = []
        while len(generated) < longest:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*row.prompt, *generated]])).logits
            generated.append(int(logits[0, -1].argmax()))
            if generated[-1] in row_tokenizer.stop_token_ids:  # type: ignore[union-attr]
                generated.pop()
                break
        assert answer == row_tokenizer.decode(generated)  # type: ignore[union-attr]


THINKING = (
    "{% for m in messages %}{{ m.role }}:{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_generated_answer_lacks_the_template_prefix(run: TrainedRun, pairs: list[tuple[str, str]]) -> None:
    """A model trained with Qwen3's template writes an empty block of reasoning before each label."""
    recipe = run.recipe.model_copy(update={"task": run.recipe.task.model_copy(update={"chat_template": THINKING})})

    class TrainedGenerator:
        def generate(self, prompts: list[tuple[int, ...]]) -> list[list[int]]:
            return [list(ids[:-1]) for ids in label_ids.values()]

    with Classifier(run.with_recipe(recipe)) as classifier:
        label_ids = classifier.row_tokenizer.label_ids  # type: ignore[union-attr]
        classifier._generator = TrainedGenerator()
        assert classifier.generate(pairs[:3]) == list(LABELS)


def test_model_is_loaded_once(run: TrainedRun, pairs: list[tuple[str, str]], loaded: list[Any]) -> None:
    classifier = Classifier(run)
    assert not loaded, "weights are loaded with the first row"
    classifier.predict(pairs)
    classifier.predict_proba(pairs)
    classifier.generate(pairs[:2])
    classifier.score(pairs, ["neutral"] * 24)
    predict_row(classifier, dict(zip(("premise", "hypothesis"), pairs[0], strict=True)))
    classifier.load()
    classifier.load("free")
    assert len(loaded) == 1


def test_close_frees_the_model(run: TrainedRun, pairs: list[tuple[str, str]], loaded: list[weakref.ref[Any]]) -> None:
    """The next call loads the model again."""
    with Classifier(run) as classifier:
        probabilities = classifier.predict_proba(pairs)
        classifier.generate(pairs[:2])
        assert loaded[0]() is not None
    gc.collect()
    assert loaded[0]() is None
    np.testing.assert_array_equal(classifier.predict_proba(pairs), probabilities)
    assert len(loaded) == 2
    classifier.close()
    classifier.close()
    gc.collect()
    assert loaded[1]() is None


def test_load_opens_the_model(run: TrainedRun, loaded: list[Any]) -> None:
    classifier = Classifier(run)
    classifier.load()
    assert len(loaded) == 1


@pytest.mark.parametrize("kind", ["adapter", "gguf"])
def test_generating_does_not_change_probabilities(
    kind: str, run: TrainedRun, gguf: ModelRef, pairs: list[tuple[str, str]]
) -> None:
    """Scoring and generation share a torch model. llama.cpp is opened again for each of them."""
    with Classifier(run, gguf if kind == "gguf" else ADAPTER) as classifier:
        before, answers = classifier.predict_proba(pairs), classifier.generate(pairs[:6])
        np.testing.assert_array_equal(classifier.predict_proba(pairs), before)
        assert classifier.generate(pairs[:6]) == answers


def test_scoring_and_generation_set_attention(
    run: TrainedRun, pairs: list[tuple[str, str]], loaded: list[weakref.ref[Any]]
) -> None:
    """Unsloth's forward on CUDA reads these flags. Scoring trees needs them, and generation must not have them."""

    def flags() -> set[bool]:
        decoder = unwrap_peft(loaded[0]()).get_decoder()
        return {getattr(decoder, name) for name in UNSLOTH_FLAGS}

    with Classifier(run) as classifier:
        for _ in range(2):
            classifier.predict(pairs[:2])
            assert flags() == {True}
            classifier.generate(pairs[:2])
            assert flags() == {False}


def test_gguf_predicts_like_its_adapter(run: TrainedRun, gguf: ModelRef, pairs: list[tuple[str, str]]) -> None:
    with Classifier(run) as adapter, Classifier(run, gguf) as exported:
        assert exported.predict(pairs) == adapter.predict(pairs)
        # The tolerance covers the merged weights, which are rounded to bfloat16.
        np.testing.assert_allclose(exported.predict_proba(pairs), adapter.predict_proba(pairs), atol=0.05)
        assert exported.classes_ == adapter.classes_


def test_gguf_is_opened_once(
    run: TrainedRun, gguf: ModelRef, pairs: list[tuple[str, str]], opened: list[str], loaded: list[Any]
) -> None:
    """llama.cpp is opened again only to switch between scoring and generation."""
    with Classifier(run, gguf) as classifier:
        for _ in range(3):
            classifier.predict(pairs[:2])
        assert opened == ["open_scorer"]
        classifier.generate(pairs[:2])
        classifier.generate(pairs[:2])
        assert opened == ["open_scorer", "open_gguf_generator"]
        classifier.predict(pairs[:2])
        assert opened == ["open_scorer", "open_gguf_generator", "open_scorer"]
        classifier.close()
        classifier.predict(pairs[:2])
        assert opened.count("open_scorer") == 3
    assert not loaded


def test_adapter_differs_from_base(run: TrainedRun, pairs: list[tuple[str, str]]) -> None:
    with Classifier(run) as adapter, Classifier(run, ModelRef("base")) as base:
        assert np.abs(adapter.predict_proba(pairs) - base.predict_proba(pairs)).max() > 0.1


LONG = ("Il pleut.", "mot " * 300)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b"), ("a", " ")], "row 2: column 'hypothesis'"),
        ([("a", "b"), ("a", "b", "c")], r"row 2: \('a', 'b', 'c'\) is not a premise and a hypothesis"),
        (["ab", ("a", "b")], "row 1: 'ab' is not a premise and a hypothesis"),
        ([("a", "b"), ("a", "b"), {"premise": "a", "text": "b"}], "row 3: it has no key 'hypothesis', only"),
        ([("a", None)], "row 1: column 'hypothesis'"),
        ([("a", "b"), LONG], r"row 2 needs \d+ tokens without its premise"),
        ([("a", "")] * 5, r"row 1: .*; row 2: .*; row 3: .* \(5 rows are invalid\)"),
        ("a text", "Expected a list of rows, not a single str"),
        ({"premise": "a", "hypothesis": "b"}, "Expected a list of rows, not a single dict"),
    ],
)
def test_bad_rows_are_refused_by_number(run: TrainedRun, loaded: list[Any], rows: Any, message: str) -> None:
    classifier = Classifier(run)
    for method in (classifier.predict, classifier.predict_proba, classifier.generate):
        with pytest.raises(DataError, match=message):
            method(rows)
    with pytest.raises(DataError, match=message):
        classifier.score(rows, ["neutral"] * len(rows))
    assert not loaded


def test_encoder_has_the_same_methods(trained_encoder: RunFolder, pairs: list[tuple[str, str]]) -> None:
    with Classifier(TrainedRun.open(trained_encoder.path)) as classifier:
        probabilities, predicted = classifier.predict_proba(pairs), classifier.predict(pairs)
        assert probabilities.dtype == np.float64 and classifier.classes_ == LABELS
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        assert predicted == [LABELS[i] for i in probabilities.argmax(axis=1)]
        assert classifier.score(pairs, predicted) == 1
        with pytest.raises(RunError, match=r"Free mode needs a model that generates text.* model\.kind is encoder"):
            classifier.generate(pairs)


def test_progress_is_silent_by_default(
    run: TrainedRun, pairs: list[tuple[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """Progress appears as a bar or through a callback if the caller asks for it."""
    calls: list[tuple[str, int, int | None]] = []
    silent, shown = Classifier(run), Classifier(run, progress=True)
    reporting = Classifier(run, progress=lambda *call: calls.append(call))
    for classifier in (silent, shown, reporting):
        classifier.load()
    capfd.readouterr()
    silent.predict(pairs)
    assert capfd.readouterr() == ("", "")
    shown.predict(pairs)
    assert "24/24" in capfd.readouterr().err
    reporting.predict(pairs)
    assert calls[-1] == ("scoring", 24, 24)
    reporting.generate(pairs[:2])
    assert calls[-1] == ("generating", 2, 2)
    assert capfd.readouterr() == ("", "")


def test_gguf_with_other_vocabulary_is_refused(run: TrainedRun, pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    from tests.export.test_gguf_writer import build_model, export

    file = export(build_model(tmp_path / "model"), tmp_path / "other.gguf")
    for method in ("predict", "generate"):
        with Classifier(run, ModelRef.parse(file)) as classifier, pytest.raises(ModelError):
            getattr(classifier, method)(pairs)
