"""The llama.cpp scorer compared with torch and with itself, and files that it must refuse without crashing."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import ModelError
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference.checks import check_depends_on_input
from toolkit.inference.classifier import TrieLabelScorer
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.llama_cpp_scorer import LlamaCppScorer
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.prompts.prompt_tokenizer import EncodedRow
from toolkit.prompts.tokenizer import encode_plain, load_tokenizer

PROMPTS = [(1, 5, 9), (1, 5, 9, 12, 40, 41, 42), (1, *range(60, 160)), (7, 7, 7, 7)]
TRIE = LabelTrie({"oui": (20, 99), "oui mais": (20, 21, 22, 99), "non": (30, 99)})


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, file, "f32", date_string=None, name="tiny")
    return file


def scorer(file: Path, trie: LabelTrie = TRIE, **settings: Any) -> LlamaCppScorer:
    return LlamaCppScorer(file, trie, **{"context_length": 256, "threads": 1, **settings})


def test_scores_equal_torch(gguf: Path, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with scorer(gguf) as engine:
        actual = engine.score(PROMPTS)
    assert actual.shape == (len(PROMPTS), len(TRIE.edges))
    assert actual.dtype == np.float64
    for row, prompt in enumerate(PROMPTS):
        for column, edge in enumerate(TRIE.edges):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *edge.path]])).logits[0, -1].double()
            assert actual[row, column] == pytest.approx(logits.log_softmax(-1)[edge.token].item(), abs=1e-4)


def test_unlikely_children_have_exact_scores(gguf: Path, tiny_model: Path) -> None:
    """Most of them are not among the likely tokens that llama.cpp reports."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[1]])).logits[0, -1].double().log_softmax(-1)
    order = expected.argsort(descending=True).tolist()
    children = [order[200], order[-1], order[0], order[-2], order[150]]
    assert expected[children[0]] - expected[children[1]] > 1
    trie = LabelTrie({str(token): (token,) for token in children})
    with scorer(gguf, trie) as engine:
        np.testing.assert_allclose(engine.score([PROMPTS[1]])[0], expected[children].numpy(), atol=1e-4)


WORDS = ["矛盾", "中立", "蕴含", "👍", "👎", "🤷", "ไม่", "ខ្មែរ", "հայ", "ⵣ", "œuvre", "neutral"]


def test_parts_of_characters_have_exact_scores(gguf: Path, tiny_model: Path) -> None:
    """llama.cpp reports no log-probabilities for a token that ends within a character."""
    tokenizer = load_tokenizer(tiny_model)
    trie = LabelTrie({word: (*encode_plain(tokenizer, word), 99) for word in WORDS})
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with scorer(gguf, trie) as engine:
        actual = engine.score(PROMPTS[:2])
    for row, prompt in enumerate(PROMPTS[:2]):
        for column, edge in enumerate(trie.edges):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *edge.path]])).logits[0, -1].double()
            assert actual[row, column] == pytest.approx(logits.log_softmax(-1)[edge.token].item(), abs=1e-4)


def test_scores_are_reproducible(gguf: Path) -> None:
    """A second scorer gives identical scores. Single rows and another order agree up to rounding."""
    with scorer(gguf) as engine:
        batched = engine.score(PROMPTS)
        reversed_scores = engine.score(PROMPTS[::-1])[::-1]
    with scorer(gguf) as second_engine:
        np.testing.assert_array_equal(second_engine.score(PROMPTS), batched)
    separate = []
    for prompt in PROMPTS:
        with scorer(gguf) as engine:
            separate.append(engine.score([prompt])[0])
    np.testing.assert_allclose(np.array(separate), batched, atol=1e-4)
    np.testing.assert_allclose(reversed_scores, batched, atol=1e-4)


@pytest.mark.parametrize("rows_at_once", [1, 3, 8])
def test_scores_keep_the_order_of_rows(rows_at_once: int, gguf: Path) -> None:
    rows = [(1, 5, 9, row % 4, *range(40, 40 + row % 7), row) for row in range(29)]
    with scorer(gguf, rows_at_once=1) as engine:
        separate = np.concatenate([engine.score([row]) for row in rows])
    with scorer(gguf, rows_at_once=rows_at_once) as engine:
        batched = engine.score(rows)
    np.testing.assert_allclose(batched, separate, atol=1e-4)
    assert np.ptp(batched, axis=0).min() > 0.1


def test_common_prefix_is_computed_once_per_sequence(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed_tokens: list[int] = []
    with scorer(gguf, rows_at_once=2) as engine:
        complete = engine.model._running_server.handle_completions

        class CountingServer:
            def handle_completions(self, request: dict[str, Any]) -> Any:
                responses = [complete({**request, "prompt": prompt}) for prompt in request["prompt"]]
                for usage in (response["usage"] for response in responses):
                    computed_tokens.append(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"])
                choices = [{**response["choices"][0], "index": i} for i, response in enumerate(responses)]
                return {"choices": choices}

        monkeypatch.setattr(type(engine.model), "_running_server", CountingServer())
        engine.score([(1, *range(40, 140), row) for row in range(20)])
    # Both sequences compute 101 tokens once. After that, a row adds its last token and the contexts of the labels.
    assert sum(computed_tokens) < 2 * 101 + 20 * 3 * len(TRIE.contexts) < 20 * 100


def test_threads_do_not_change_scores(gguf: Path) -> None:
    with scorer(gguf, threads=1) as single, scorer(gguf, threads=2) as double:
        np.testing.assert_array_equal(single.score(PROMPTS[:1]), double.score(PROMPTS[:1]))


def test_two_scorers_are_independent(gguf: Path) -> None:
    first, second = scorer(gguf), scorer(gguf)
    expected = first.score(PROMPTS[:1])
    first.close()
    np.testing.assert_array_equal(second.score(PROMPTS[:1]), expected)
    second.close()


def test_closed_scorer_is_refused(gguf: Path) -> None:
    with scorer(gguf) as engine:
        pass
    with pytest.raises(ModelError, match="closed"):
        engine.score(PROMPTS[:1])


@pytest.mark.parametrize(
    "prompt, message",
    [((), "Row 2 has no tokens"), ((1,) * 300, "Row 2 needs 304 tokens"), ((1, 10**6), "invalid tokens")],
    ids=["empty", "too long", "unknown ids"],
)
def test_invalid_prompt_is_refused(prompt: tuple[int, ...], message: str, gguf: Path) -> None:
    with scorer(gguf) as engine, pytest.raises(ModelError, match=message):
        engine.score([PROMPTS[0], prompt])


def test_longest_prompt_is_scored(gguf: Path) -> None:
    with scorer(gguf) as engine:
        assert np.isfinite(engine.score([(1, *range(20, 20 + 251))])).all()


def test_unknown_label_token_is_refused(gguf: Path) -> None:
    with (
        scorer(gguf, LabelTrie({"a": (10**6, 99), "b": (30, 99)})) as engine,
        pytest.raises(ModelError, match="1000000"),
    ):
        engine.score(PROMPTS[:1])


@pytest.mark.parametrize("kept", [4, 100, 0.5, 0.999])
def test_truncated_file_is_refused(kept: float, gguf: Path, tmp_path: Path) -> None:
    content = gguf.read_bytes()
    file = tmp_path / "truncated.gguf"
    file.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(ModelError, match="truncated or damaged"):
        scorer(file)


def test_anything_but_a_gguf_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("not a model", encoding="utf-8")
    missing = tmp_path / "missing.gguf"
    for file, message in [(missing, "No such file"), (tmp_path, "cannot be read"), (text, "not a GGUF")]:
        with pytest.raises(ModelError, match=message):
            scorer(file)


def test_llama_cpp_is_silent_by_default(
    gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TOOLKIT_LLAMA_LOG=1 shows its messages."""
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(gguf.read_bytes()[:5000])
    with scorer(gguf) as engine:
        engine.score(PROMPTS[:1])
    with pytest.raises(ModelError):
        scorer(truncated)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "llama" not in printed.err
    monkeypatch.setenv("TOOLKIT_LLAMA_LOG", "1")
    scorer(gguf).close()
    printed = capfd.readouterr()
    assert "llama" in printed.out + printed.err


ENDLESS = "{% for i in range(1000000) %}{% for j in range(1000000) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template", [ENDLESS, "{{ raise_exception('no') }}", "{% if"], ids=["endless", "raises", "syntax"]
)
def test_chat_template_does_not_affect_scores(template: str, gguf: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Scores come from token ids. An endless template would hang while llama.cpp opens the file."""
    for file in tiny_model.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_gguf(tmp_path, tmp_path / "template.gguf", "f32", date_string=None, name="tiny")
    with scorer(gguf) as engine, scorer(tmp_path / "template.gguf") as other:
        np.testing.assert_array_equal(other.score(PROMPTS[:1]), engine.score(PROMPTS[:1]))


def with_zeros(folder: Path, source: Path, words: tuple[str, ...]) -> Path:
    """Write a GGUF file in which the tensors whose names contain one of the words are zero."""
    for file in source.iterdir():
        if file.name != "model.safetensors":
            (folder / file.name).symlink_to(file)
    tensors = load_file(source / "model.safetensors")
    zeroed = {name: t * (not any(word in name for word in words)) for name, t in tensors.items()}
    save_file(zeroed, folder / "model.safetensors", {"format": "pt"})
    write_gguf(folder, folder / "zeros.gguf", "f32", date_string=None, name="zeros")
    return folder / "zeros.gguf"


@pytest.mark.parametrize(
    ("words", "rows", "is_refused"),
    [
        (("weight",), 1, True),
        (("weight",), 9, True),
        (("model.norm",), 1, True),
        (("o_proj", "down_proj"), 9, True),
        (("o_proj", "down_proj"), 7, False),
        (("layers.0",), 9, False),
        (("none",), 1, False),
        (("none",), 9, False),
    ],
)
def test_equal_scores_are_refused(
    words: tuple[str, ...], rows: int, is_refused: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """A few rows can be equal by chance. A model without attention sees only the last token, the same in every row."""
    encoded = [EncodedRow((1, 40 + row, 9), ()) for row in range(rows)]
    with scorer(with_zeros(tmp_path, tiny_model, words)) as engine:
        refused = pytest.raises(ModelError, match="scores do not depend on its input")
        with refused if is_refused else nullcontext():
            TrieLabelScorer(engine, TRIE).score_labels(encoded)


def test_equal_rows_may_have_equal_scores() -> None:
    check_depends_on_input(np.tile([-1.0, -2.0, -3.0, -4.0], (50, 1)), [(1, 2)] * 50)
    check_depends_on_input(np.zeros((1, 3)), [(1, 2)])  # an encoder's logits in bfloat16
    with pytest.raises(ModelError, match="the same for 50 rows"):
        check_depends_on_input(np.zeros((50, 3)), [(1, row) for row in range(50)])
