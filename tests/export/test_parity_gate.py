"""The parity gate: a file that answers as the adapter passes, and each way to break an export is found by its name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.data.example import Example
from toolkit.data.examples import load_examples
from toolkit.export import gguf_tokenizer
from toolkit.export import gguf_writer as gguf_module
from toolkit.export.agreement import compare_scores
from toolkit.export.gguf_writer import write_gguf
from toolkit.export.parity_gate import Parity, ParityGate, choose_rows
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.merging import merge_adapter
from toolkit.prompts.encoder import PromptEncoder
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

# As Llama 3.2's, the template prints a date, today's where none is given.
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
    """A gate whose run is merged; its adapter was trained on another prompt, which parity does not mind."""
    path = tmp_path_factory.mktemp("parity") / "small"
    shutil.copytree(trained.path, path)
    run = TrainedRun.open(path).with_recipe(recipe)
    encoder = PromptEncoder(load_tokenizer(run.folder.adapter), recipe.task, recipe.model.max_seq_length)
    encoder.tokenizer.save_pretrained(run.folder.adapter)
    merge_adapter(Path(recipe.model.name), run.folder.adapter, run.folder.merged)
    return ParityGate(run, encoder, load_examples(recipe, recipe.data.eval), min_agreement=None)


Check = Callable[..., Parity]


@pytest.fixture
def check(gate: ParityGate, recipe: Recipe, tmp_path: Path) -> Check:
    """Write a GGUF and put it through the gate."""

    def write_and_check(folder: Path | None = None, date_string: str | None = "26 Jul 2024", **_: Any) -> Parity:
        file = gate._run.path / "gguf" / f"{tmp_path.name}.gguf"
        write_gguf(folder or gate._run.folder.merged, file, "f32", date_string=date_string, name="m")
        gate.check_gguf("f32", file)
        return gate.results[-1]

    return write_and_check


def test_a_whole_export_passes(check: Check, gate: ParityGate) -> None:
    found = check()
    assert (found.verdict, found.reasons, found.different_tokens) == ("passed", (), 0)
    assert found.agreement.rows == found.agreement.equal == 24
    # What is left is the rounding of the merged weights to bfloat16, on weights far larger than a real model's.
    assert 0 < found.agreement.largest_difference < 0.05
    entry = gate.record("rows")["models"][-1]
    assert entry["min_agreement"] == 0.99 and entry["file"].startswith("gguf/")
    assert f"{found.model}" in gate.table() and "24/24 100.0%" in gate.table()


def test_merged_weights_equal_the_adapter_on_its_base(gate: ParityGate) -> None:
    gate.check_merged()
    found = gate.results[-1]
    assert found.verdict == "passed" and found.agreement.rows == 24 and found.agreement.largest_difference < 0.05


def test_an_adapter_that_is_missing_from_the_merge_is_found(check: Check, tiny_model: Path, gate: ParityGate) -> None:
    folder = gate._run.path / "only-base"
    shutil.copytree(gate._run.folder.merged, folder)
    shutil.copy(tiny_model / "model.safetensors", folder / "model.safetensors")
    found = check(folder)
    assert any("the adapter is missing" in reason for reason in found.reasons)
    assert found.different_tokens == 0


def test_a_second_first_token_is_found(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tokenizer, "_with_date", lambda template, _: PINNED + "{{- bos_token }}" + template)
    found = check()
    assert found.different_tokens == 24
    [reason] = found.reasons
    assert "its first token <|begin_of_text|> 2 times" in reason


def test_another_date_is_found_by_its_name(check: Check) -> None:
    found = check(date_string="25 Nov 2026")
    assert found.different_tokens == 24 and found.agreement.equal == 24
    [reason] = found.reasons
    assert "another date" in reason and "25 Nov 2026" in reason


def test_todays_date_is_found(check: Check) -> None:
    assert any("another date" in reason for reason in check(date_string=None).reasons)


def test_another_chat_template_is_found_by_its_name(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    other = TEMPLATE.replace("Today Date: ", "Date: ")
    monkeypatch.setattr(gguf_tokenizer, "_with_date", lambda *_: PINNED + other)
    found = check()
    assert found.different_tokens == 24
    [reason] = found.reasons
    assert "another chat template" in reason and "Today Date" in reason


def test_query_and_key_rows_in_another_order_are_a_broken_export(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.export.llama_folder.LlamaFolder._row_order", lambda *_: None)
    found = check()
    assert found.verdict == "refused" and found.different_tokens == 0
    assert found.agreement.clear_disagreements > 2
    assert any("clear margin: the export is broken" in reason for reason in found.reasons)


def test_scores_that_do_not_depend_on_the_row_are_found(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_module._convert

    def without_output(rows: np.ndarray, tensor: Any) -> np.ndarray:
        return convert(np.zeros_like(rows) if tensor.name == "output_norm.weight" else rows, tensor)

    monkeypatch.setattr(gguf_module, "_convert", without_output)
    assert any("the same whatever it reads" in reason for reason in check().reasons)


# llama.cpp renders a short message of its own as it loads a file.
FAILING = "{%- if messages[-1]['content'] | length > 20 %}{{ raise_exception('no') }}{%- endif %}" + TEMPLATE


def test_a_file_that_llama_cpp_cannot_render_is_refused(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tokenizer, "_with_date", lambda *_: FAILING)
    assert any("a chat call cannot be rendered" in reason for reason in check().reasons)


def test_what_merging_changes_for_an_adapter_from_4_bit_weights_is_told_on_all_rows_and_not_refused(
    trained: RunFolder, tiny_model: Path, tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    shutil.copytree(trained.path, tmp_path / "small")
    run = TrainedRun.open(tmp_path / "small")
    merge_adapter(tiny_model, run.folder.adapter, run.folder.merged)
    found = {}
    for in_4bit in (False, True):
        recipe = make_recipe(f"model.name={tiny_model}", f"model.load_in_4bit={str(in_4bit).lower()}")
        encoder = PromptEncoder(load_tokenizer(run.folder.adapter), recipe.task, recipe.model.max_seq_length)
        examples = load_examples(recipe, recipe.data.eval)
        gate = ParityGate(run.with_recipe(recipe), encoder, examples, min_agreement=None)
        gate.check_merged()
        found[in_4bit] = gate.results[-1]
    assert found[True].agreement.rows == 24 and found[True].min_agreement is None
    assert found[True].agreement.largest_difference > 5 * found[False].agreement.largest_difference
    assert found[True].verdict == "passed"


TRIE = LabelTrie({"yes": (1, 9), "yes but": (1, 2, 9), "no": (3, 9)})
ROWS = [Example(str(i), "p", "h", "yes") for i in range(4)]


def scores(first: float, second: float = -0.5) -> np.ndarray:
    """Edges in their order: 1, 9 after 1, 2 after 1, 9 after 1 2, 3, 9 after 3; `no` has what is left of the first."""
    rest, other = np.log1p(-np.exp([first, second]))
    return np.array([first, second, other, 0.0, rest, 0.0])


def test_a_near_tie_and_a_clear_margin_are_told_apart() -> None:
    assert [(edge.path, edge.token) for edge in TRIE.edges] == [((), 1), ((1,), 9), ((1,), 2), ((1, 2), 9), ((), 3),
                                                                ((3,), 9)]  # fmt: skip
    sure, unsure, no = scores(np.log(0.9)), scores(np.log(0.51)), scores(np.log(0.1))
    reference = np.array([sure, sure, unsure, sure])
    found = compare_scores(ROWS, TRIE, reference, np.array([sure, no, no, sure]), near_tie=0.2)
    assert (found.rows, found.equal, found.share, found.clear_disagreements) == (4, 2, 0.5, 1)
    assert [(row.id, row.kind) for row in found.disagreements] == [("1", "clear"), ("2", "near tie")]
    assert [row.margin for row in found.disagreements] == pytest.approx([np.log(0.9 / 0.1), np.log(0.51 / 0.49)])
    assert found.accuracy == 0.5 and found.accuracy_ci95[0] < 0.5 < found.accuracy_ci95[1]


def test_the_margin_is_that_of_the_token_where_two_labels_part() -> None:
    row = scores(np.log(0.9), np.log(0.6))
    assert TRIE.margin(row, "yes", "yes but") == pytest.approx(np.log(0.6 / 0.4))
    assert TRIE.margin(row, "yes but", "no") == pytest.approx(np.log(0.9 / 0.1))


@pytest.mark.parametrize("rows", [3, 30, 200])
def test_each_label_has_its_share_of_the_rows_and_the_seed_alone_chooses_them(rows: int) -> None:
    labels = ["a"] * 500 + ["b"] * 300 + ["c"] * 200
    examples = [Example(str(i), "p", "h", label) for i, label in enumerate(labels)]
    chosen = choose_rows(examples, rows, seed=1)
    assert len(chosen) == rows and chosen == choose_rows(examples, rows, seed=1) != choose_rows(examples, rows, seed=2)
    assert [int(row.id) for row in chosen] == sorted(int(row.id) for row in chosen)
    for label, share in [("a", 0.5), ("b", 0.3), ("c", 0.2)]:
        assert abs(sum(row.label == label for row in chosen) - share * rows) <= 1
    assert choose_rows(examples, "all", seed=1) == choose_rows(examples, 10_000, seed=1) == examples
