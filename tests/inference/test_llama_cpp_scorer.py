"""The llama.cpp scorer against torch, against itself, and on files that it must refuse without dying."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.errors import ModelError
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.llama_cpp_scorer import LlamaCppScorer
from toolkit.models.backend import AutoModelForCausalLM

PROMPTS = [(1, 5, 9), (1, 5, 9, 12, 40, 41, 42), (1, *range(60, 160)), (7, 7, 7, 7)]
TRIE = LabelTrie({"oui": (20, 99), "oui mais": (20, 21, 22, 99), "non": (30, 99)})


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, file, "f32", date_string=None, name="tiny")
    return file


def scorer(file: Path, trie: LabelTrie = TRIE, **settings: Any) -> LlamaCppScorer:
    return LlamaCppScorer(file, trie, **{"context_length": 256, "threads": 1, **settings})


def test_every_edge_has_torchs_log_probability(gguf: Path, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with scorer(gguf) as engine:
        found = engine.score(PROMPTS)
    assert found.shape == (len(PROMPTS), len(TRIE.edges))
    assert found.dtype == np.float64
    for row, prompt in enumerate(PROMPTS):
        for column, edge in enumerate(TRIE.edges):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *edge.path]])).logits[0, -1].double()
            assert found[row, column] == pytest.approx(logits.log_softmax(-1)[edge.token].item(), abs=1e-4)


def test_unlikely_children_are_exact_too(gguf: Path, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[1]])).logits[0, -1].double().log_softmax(-1)
    order = expected.argsort(descending=True).tolist()
    chosen = [order[200], order[-1], order[0], order[-2], order[150]]
    assert expected[chosen[0]] - expected[chosen[1]] > 1
    trie = LabelTrie({str(token): (token,) for token in chosen})
    with scorer(gguf, trie) as engine:
        np.testing.assert_allclose(engine.score([PROMPTS[1]])[0], expected[chosen].numpy(), atol=1e-4)


def test_one_row_and_many_and_a_second_time_give_the_same_numbers(gguf: Path) -> None:
    with scorer(gguf) as engine:
        together = engine.score(PROMPTS)
        backwards = engine.score(PROMPTS[::-1])[::-1]
    with scorer(gguf) as again:
        np.testing.assert_array_equal(again.score(PROMPTS), together)
    alone = []
    for prompt in PROMPTS:
        with scorer(gguf) as engine:
            alone.append(engine.score([prompt])[0])
    np.testing.assert_allclose(np.array(alone), together, atol=1e-4)
    np.testing.assert_allclose(backwards, together, atol=1e-4)


@pytest.mark.parametrize("rows_at_once", [1, 3, 8])
def test_rows_in_any_order_and_number_come_back_as_they_were_given(rows_at_once: int, gguf: Path) -> None:
    rows = [(1, 5, 9, row % 4, *range(40, 40 + row % 7), row) for row in range(29)]
    with scorer(gguf, rows_at_once=1) as engine:
        alone = np.concatenate([engine.score([row]) for row in rows])
    with scorer(gguf, rows_at_once=rows_at_once) as engine:
        found = engine.score(rows)
    np.testing.assert_allclose(found, alone, atol=1e-4)
    assert np.ptp(found, axis=0).min() > 0.1


def test_what_rows_begin_with_is_read_once_for_each_sequence(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    with scorer(gguf, rows_at_once=2) as engine:
        complete = engine.model._open.handle_completions

        class Counting:
            def handle_completions(self, request: dict[str, Any]) -> Any:
                answers = [complete({**request, "prompt": prompt}) for prompt in request["prompt"]]
                read.extend(a["usage"]["prompt_tokens"] - a["usage"]["prompt_tokens_details"]["cached_tokens"]
                            for a in answers)  # fmt: skip
                choices = [{**a["choices"][0], "index": i} for i, a in enumerate(answers)]
                return {"choices": choices}

        monkeypatch.setattr(type(engine.model), "_open", Counting())
        engine.score([(1, *range(40, 140), row) for row in range(20)])
    # Two sequences read 101 tokens once; after that a row adds its own token and those of its labels' contexts.
    assert sum(read) < 2 * 101 + 20 * 3 * len(TRIE.contexts) < 20 * 100


def test_the_number_of_threads_changes_nothing(gguf: Path) -> None:
    with scorer(gguf, threads=1) as one, scorer(gguf, threads=2) as two:
        np.testing.assert_array_equal(one.score(PROMPTS[:1]), two.score(PROMPTS[:1]))


def test_two_scorers_live_side_by_side(gguf: Path) -> None:
    first, second = scorer(gguf), scorer(gguf)
    expected = first.score(PROMPTS[:1])
    first.close()
    np.testing.assert_array_equal(second.score(PROMPTS[:1]), expected)
    second.close()


def test_a_closed_scorer_says_so(gguf: Path) -> None:
    with scorer(gguf) as engine:
        pass
    with pytest.raises(ModelError, match="closed"):
        engine.score(PROMPTS[:1])


@pytest.mark.parametrize(
    "prompt, names",
    [((), "Row 1 has no tokens"), ((1,) * 300, "Row 1 needs 304 tokens"), ((1, 10**6), "invalid tokens")],
    ids=["empty", "too long", "ids of another model"],
)
def test_a_prompt_that_cannot_be_scored_is_refused(prompt: tuple[int, ...], names: str, gguf: Path) -> None:
    with scorer(gguf) as engine, pytest.raises(ModelError, match=names):
        engine.score([PROMPTS[0], prompt])


def test_the_longest_prompt_that_fits_is_scored(gguf: Path) -> None:
    with scorer(gguf) as engine:
        assert np.isfinite(engine.score([(1, *range(20, 20 + 251))])).all()


def test_label_tokens_of_another_model_are_refused(gguf: Path) -> None:
    with (
        scorer(gguf, LabelTrie({"a": (10**6, 99), "b": (30, 99)})) as engine,
        pytest.raises(ModelError, match="1000000"),
    ):
        engine.score(PROMPTS[:1])


@pytest.mark.parametrize("kept", [4, 100, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(kept: float, gguf: Path, tmp_path: Path) -> None:
    whole = gguf.read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(ModelError, match="cut short or damaged"):
        scorer(file)


def test_a_missing_file_a_folder_and_another_format_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_text("not a model", encoding="utf-8")
    for file, names in [(tmp_path / "none.gguf", "No such file"), (tmp_path, "cannot be read"), (other, "not a GGUF")]:
        with pytest.raises(ModelError, match=names):
            scorer(file)


def test_llama_cpp_is_silent_unless_asked(
    gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:5000])
    with scorer(gguf) as engine:
        engine.score(PROMPTS[:1])
    with pytest.raises(ModelError):
        scorer(cut)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "llama" not in printed.err
    monkeypatch.setenv("TOOLKIT_LLAMA_LOG", "1")
    scorer(gguf).close()
    printed = capfd.readouterr()
    assert "llama" in printed.out + printed.err
