"""The parity gate: an intact export passes, and for each way to break one the gate names the cause."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.nli import nli
from toolkit.data.examples import load_examples
from toolkit.export import chat_tokens, gguf_tokenizer
from toolkit.export import gguf_writer as gguf_module
from toolkit.export.agreement import compare_scores
from toolkit.export.gguf_writer import write_gguf
from toolkit.export.parity_gate import Parity, ParityGate, choose_rows
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.merging import merge_adapter
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

# Like Llama 3.2's, this template prints a date, which is today's if none is given.
TEMPLATE = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
"""
PINNED = '{%- set date_string = "26 Jul 2024" %}'


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., Recipe], tiny_model: Path) -> Recipe:
    recipe = make_recipe(f"model.name={tiny_model}")
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"chat_template": TEMPLATE})})


@pytest.fixture(scope="module")
def gate(trained: RunFolder, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> ParityGate:
    """A gate for a merged run. Its adapter was trained with another chat template, which does not affect parity."""
    path = tmp_path_factory.mktemp("parity") / "small"
    shutil.copytree(trained.path, path)
    run = TrainedRun.open(path, accept_changes=True).with_recipe(recipe)  # the chat template is about to change
    prompt_tokenizer = PromptTokenizer(load_tokenizer(run.folder.adapter), recipe.task, recipe.model.max_seq_length)
    prompt_tokenizer.tokenizer.save_pretrained(run.folder.adapter)
    merge_adapter(Path(recipe.model.name), run.folder.adapter, run.folder.merged)
    return ParityGate(run, prompt_tokenizer, load_examples(recipe, recipe.data.eval), min_agreement=None)


Check = Callable[..., Parity]


@pytest.fixture
def check(gate: ParityGate, recipe: Recipe, tmp_path: Path) -> Check:
    """A function that writes a GGUF file and passes it through the gate."""

    def write_and_check(folder: Path | None = None, date_string: str | None = "26 Jul 2024", **_: Any) -> Parity:
        file = gate._run.path / "gguf" / f"{tmp_path.name}.gguf"
        write_gguf(folder or gate._run.folder.merged, file, "f32", date_string=date_string, name="m")
        gate.check_gguf("f32", file)
        return gate.results[-1]

    return write_and_check


def test_intact_export_passes(check: Check, gate: ParityGate) -> None:
    parity = check()
    assert (parity.verdict, parity.reasons, parity.different_tokens) == ("passed", (), 0)
    assert parity.agreement.rows == parity.agreement.equal == 24
    # The remaining difference is the rounding of merged weights to bfloat16; these are far larger than a real model's.
    assert 0 < parity.agreement.largest_difference < 0.05
    entry = gate.record("rows")["models"][-1]
    assert entry["min_agreement"] == 0.99 and entry["file"].startswith("gguf/")
    assert f"{parity.model}" in gate.table() and "24/24 100.0%" in gate.table()


def test_merged_weights_match_the_adapter(gate: ParityGate) -> None:
    gate.check_merged()
    parity = gate.results[-1]
    assert parity.verdict == "passed" and parity.agreement.rows == 24 and parity.agreement.largest_difference < 0.05


def test_missing_adapter_is_detected(check: Check, tiny_model: Path, gate: ParityGate) -> None:
    folder = gate._run.path / "only-base"
    shutil.copytree(gate._run.folder.merged, folder)
    shutil.copy(tiny_model / "model.safetensors", folder / "model.safetensors")
    parity = check(folder)
    assert any("the adapter is missing" in reason for reason in parity.reasons)
    assert parity.different_tokens == 0


def test_doubled_first_token_is_named(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tokenizer, "_with_date", lambda template, _: PINNED + "{{- bos_token }}" + template)
    parity = check()
    assert parity.different_tokens == 24
    [reason] = parity.reasons
    assert "the first token <|begin_of_text|> occurs 2 times" in reason


def test_different_date_is_named(check: Check) -> None:
    parity = check(date_string="25 Nov 2026")
    assert parity.different_tokens == 24 and parity.agreement.equal == 24
    [reason] = parity.reasons
    assert "a different date" in reason and "25 Nov 2026" in reason


def test_unpinned_date_is_detected(check: Check) -> None:
    """Without a pinned date the template prints today's, which is not that of training."""
    assert any("a different date" in reason for reason in check(date_string=None).reasons)


def test_different_chat_template_is_named(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    changed_template = TEMPLATE.replace("Today Date: ", "Date: ")
    monkeypatch.setattr(gguf_tokenizer, "_with_date", lambda *_: PINNED + changed_template)
    parity = check()
    assert parity.different_tokens == 24
    [reason] = parity.reasons
    assert "a different chat template" in reason and "Today Date" in reason


def test_wrong_row_order_is_a_broken_export(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query and key rows left in Hugging Face's order give clear disagreements."""
    monkeypatch.setattr("toolkit.models.decoder_folder.DecoderFolder._row_order", lambda *_: None)
    parity = check()
    assert parity.verdict == "refused" and parity.different_tokens == 0
    assert parity.agreement.clear_disagreements > 2
    assert any("clear margin: the export is broken" in reason for reason in parity.reasons)


def test_constant_scores_are_detected(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_module._convert

    def zero_the_final_norm(rows: np.ndarray, tensor: Any) -> np.ndarray:
        return convert(np.zeros_like(rows) if tensor.name == "output_norm.weight" else rows, tensor)

    monkeypatch.setattr(gguf_module, "_convert", zero_the_final_norm)
    assert any("do not depend on the input" in reason for reason in check().reasons)


FAILING = "{%- if messages[-1]['content'] | length > 20 %}{{ raise_exception('no') }}{%- endif %}" + TEMPLATE


def test_template_that_cannot_be_rendered_is_refused(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tokenizer, "_with_date", lambda *_: FAILING)
    assert any("llama.cpp cannot render a chat request" in reason for reason in check().reasons)


LOOPS = [
    "{%- for i in range(1000000) %}{%- for j in range(1000000) %}{%- endfor %}{%- endfor %}",
    "{%- macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
]


@pytest.mark.parametrize("loop", LOOPS)
def test_endless_template_is_refused(loop: str, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp renders the template while it opens the file, and does not return. The answers are still compared."""
    monkeypatch.setattr(chat_tokens, "_CHAT_SECONDS", 8)
    monkeypatch.setattr(gguf_tokenizer, "_with_date", lambda *_: loop + PINNED + TEMPLATE)
    parity = check()
    assert parity.verdict == "refused" and parity.agreement.equal == 24
    [reason] = parity.reasons
    assert "llama.cpp cannot render a chat request" in reason


def test_merging_a_4_bit_adapter_is_not_refused(
    trained: RunFolder, tiny_model: Path, tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    """Merging into 16-bit weights changes the answers. The gate reports by how much, on all rows, and passes."""
    shutil.copytree(trained.path, tmp_path / "small")
    run = TrainedRun.open(tmp_path / "small", accept_changes=True)  # the merged weights below are not sealed
    merge_adapter(tiny_model, run.folder.adapter, run.folder.merged)
    parity = {}
    for in_4bit in (False, True):
        recipe = make_recipe(f"model.name={tiny_model}", f"model.load_in_4bit={str(in_4bit).lower()}")
        prompt_tokenizer = PromptTokenizer(load_tokenizer(run.folder.adapter), recipe.task, recipe.model.max_seq_length)
        examples = load_examples(recipe, recipe.data.eval)
        gate = ParityGate(run.with_recipe(recipe), prompt_tokenizer, examples, min_agreement=None)
        gate.check_merged()
        parity[in_4bit] = gate.results[-1]
    assert parity[True].agreement.rows == 24 and parity[True].min_agreement is None
    assert parity[True].agreement.largest_difference > 5 * parity[False].agreement.largest_difference
    assert parity[True].verdict == "passed"


TRIE = LabelTrie({"yes": (1, 9), "yes but": (1, 2, 9), "no": (3, 9)})
ROWS = [nli(str(i), "p", "h", "yes") for i in range(4)]


def edge_scores(yes: float, end_after_yes: float = -0.5) -> np.ndarray:
    """Return the log-probabilities of the trie's edges, given those of token 1 and of token 9 after it.

    The edges are, in order: 1, 9 after 1, 2 after 1, 9 after 1 2, 3, 9 after 3.
    """
    no, but_after_yes = np.log1p(-np.exp([yes, end_after_yes]))
    return np.array([yes, end_after_yes, but_after_yes, 0.0, no, 0.0])


def test_near_ties_and_clear_disagreements_are_distinguished() -> None:
    assert [(edge.path, edge.token) for edge in TRIE.edges] == [((), 1), ((1,), 9), ((1,), 2), ((1, 2), 9), ((), 3),
                                                                ((3,), 9)]  # fmt: skip
    sure, unsure, no = edge_scores(np.log(0.9)), edge_scores(np.log(0.51)), edge_scores(np.log(0.1))
    reference = np.array([sure, sure, unsure, sure])
    agreement = compare_scores(ROWS, TRIE, reference, np.array([sure, no, no, sure]), near_tie=0.2)
    assert (agreement.rows, agreement.equal, agreement.share, agreement.clear_disagreements) == (4, 2, 0.5, 1)
    assert [(row.id, row.kind) for row in agreement.disagreements] == [("1", "clear"), ("2", "near tie")]
    assert [row.margin for row in agreement.disagreements] == pytest.approx([np.log(0.9 / 0.1), np.log(0.51 / 0.49)])
    assert agreement.accuracy == 0.5 and agreement.accuracy_ci95[0] < 0.5 < agreement.accuracy_ci95[1]


def test_margin_is_where_labels_diverge() -> None:
    row = edge_scores(np.log(0.9), np.log(0.6))
    assert TRIE.margin(row, "yes", "yes but") == pytest.approx(np.log(0.6 / 0.4))
    assert TRIE.margin(row, "yes but", "no") == pytest.approx(np.log(0.9 / 0.1))


@pytest.mark.parametrize("rows", [3, 30, 200])
def test_chosen_rows_are_stratified_and_reproducible(rows: int) -> None:
    labels = ["a"] * 500 + ["b"] * 300 + ["c"] * 200
    examples = [nli(str(i), "p", "h", label) for i, label in enumerate(labels)]
    chosen = choose_rows(examples, rows, seed=1)
    assert len(chosen) == rows and chosen == choose_rows(examples, rows, seed=1) != choose_rows(examples, rows, seed=2)
    assert [int(row.id) for row in chosen] == sorted(int(row.id) for row in chosen)
    for label, share in [("a", 0.5), ("b", 0.3), ("c", 0.2)]:
        assert abs(sum(row.label == label for row in chosen) - share * rows) <= 1
    assert choose_rows(examples, "all", seed=1) == choose_rows(examples, 10_000, seed=1) == examples
