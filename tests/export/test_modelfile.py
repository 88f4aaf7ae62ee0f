"""The exported file as its users run it: chat requests and the Modelfile give the run's prompts and answers."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.data.examples import load_examples
from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import ExportError
from toolkit.export.gguf_writer import write_gguf
from toolkit.export.modelfile import render_modelfile, render_readme
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.llama_cpp import LlamaCpp
from toolkit.inference.llama_cpp_scorer import LlamaCppScorer
from toolkit.models.merging import merge_adapter
from toolkit.models.model_folder import find_base
from toolkit.prompts.messages import prompt_messages
from toolkit.prompts.ollama_template import render_ollama_template
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe, TaskSection
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    """A recipe that trains the embedded model until it answers with little else than labels."""
    training = ("training.batch_size=24", "training.max_steps=40", "training.warmup_ratio=0.1")
    system = "task.system=Compare les deux phrases."
    return make_recipe("data.train.limit=960", "lora.r=64", "lora.alpha=64", system, *training)


@pytest.fixture(scope="module")
def exported(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PromptTokenizer]:
    from toolkit.training.training_run import TrainingOptions, train_run

    run = RunFolder(tmp_path_factory.mktemp("chat") / "chat")
    train_run(recipe, run, TrainingOptions())
    merge_adapter(find_base(TrainedRun.open(run.path)), run.adapter, run.merged)
    write_gguf(run.merged, run.gguf("q8_0"), "q8_0", date_string=recipe.task.date_string, name="chat")
    prompt_tokenizer = PromptTokenizer(load_tokenizer(run.adapter), recipe.task, recipe.model.max_seq_length)
    return run.gguf("q8_0"), prompt_tokenizer


def test_chat_call_answers_like_the_scorer(exported: tuple[Path, PromptTokenizer], recipe: Recipe) -> None:
    file, prompt_tokenizer = exported
    examples = load_examples(recipe, recipe.data.eval)
    rows = prompt_tokenizer.encode(examples)
    trie = LabelTrie(prompt_tokenizer.label_ids)
    with LlamaCppScorer(file, trie, context_length=256) as scorer:
        expected = trie.greedy(scorer.score([row.prompt for row in rows]))
    valid = 0
    with LlamaCpp(file, context_length=256, sequences=1, use_chat_template=True) as model:
        for example, row, label in zip(examples, rows, expected, strict=True):
            messages = prompt_messages(recipe.task, example.inputs)
            assert tuple(model.tokenize_chat(messages)) == row.prompt
            # No temperature is sent: the file's metadata set it to 0.
            answer = model.chat(messages, max_tokens=8).strip()
            if answer in recipe.task.labels:
                valid += 1
                assert answer == label, example
    assert valid > 20 and len(set(expected)) > 1


def test_ollama_template_gives_the_training_tokens(exported: tuple[Path, PromptTokenizer], recipe: Recipe) -> None:
    file, prompt_tokenizer = exported
    example = load_examples(recipe, recipe.data.eval)[3]
    *system, question = prompt_messages(recipe.task, example.inputs)
    text = render_ollama_template(prompt_tokenizer).replace("{{ .System }}", system[0]["content"])
    text = text.replace("{{ .Prompt }}", question["content"])
    with LlamaCpp(file, context_length=256, sequences=1, use_chat_template=True) as model:
        tokens = model._post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
    assert tuple(tokens) == prompt_tokenizer.encode_prompt(example.inputs)[0]


def test_modelfile_is_complete(exported: tuple[Path, PromptTokenizer]) -> None:
    text = render_modelfile(exported[1], Path("x-q8_0.gguf"), 300)
    assert text.startswith('FROM ./x-q8_0.gguf\nTEMPLATE """<|start_header_id|>system')
    assert '{{ .Response }}<|eot_id|>"""\nSYSTEM """Compare les deux phrases."""\n' in text
    for line in ('PARAMETER stop "<|eot_id|>"', "PARAMETER temperature 0", "PARAMETER num_ctx 2048"):
        assert f"{line}\n" in text


BRACES = """{{- bos_token }}{{- '{{ a }}' }}
{%- for m in messages %}{{- '<|start_header_id|>' + m['content'] + '<|eot_id|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>' }}{%- endif %}"""


def test_template_braces_are_escaped_and_quotes_refused(
    exported: tuple[Path, PromptTokenizer], make_recipe: Callable[..., Recipe]
) -> None:
    def prompt_tokenizer(**task: Any) -> PromptTokenizer:
        tokenizer = load_tokenizer(exported[0].parent.parent / "adapter")
        return PromptTokenizer(tokenizer, make_recipe().task.model_copy(update=task), 256)

    template = render_ollama_template(prompt_tokenizer(chat_template=BRACES))
    assert template.startswith('{{ "{{" }} a }}<|start_header_id|>{{ .System }}')
    with pytest.raises(ExportError, match="three quotation marks"):
        render_modelfile(prompt_tokenizer(system='Dis """oui""".'), Path("x.gguf"), 300)


def test_modelfile_prints_the_date_of_training(make_recipe: Callable[..., Recipe]) -> None:
    """The template reads the clock, and the prompt is written out with the recipe's date."""
    clock = "{{- bos_token }}{{- strftime_now('%d %B %Y, ') }}" + BRACES.replace("{{- bos_token }}", "")
    task = make_recipe().task.model_copy(update={"chat_template": clock})
    prompt_tokenizer = PromptTokenizer(load_tokenizer(MODEL_FOLDER), task, 256)
    assert 'TEMPLATE """26 July 2024, ' in render_modelfile(prompt_tokenizer, Path("x.gguf"), 300)
    readme = render_readme(prompt_tokenizer, [Path("x-q8_0.gguf")], nli("1", "a", "b", "neutral"))
    assert "always gives 26 Jul 2024 as today's date" in readme


def test_readme_commands_are_quoted_for_a_shell(exported: tuple[Path, PromptTokenizer]) -> None:
    text = render_readme(
        exported[1], [Path("x-q8_0.gguf"), Path("x-f16.gguf")], nli("1", "L'été $(rm) `x`", 'Il dit "oui"', "neutral")
    )
    blocks = [shlex.split(block) for block in text.split("```")[1::2]]
    [cli] = [block for block in blocks if block[0] == "llama-cli"]
    assert cli[cli.index("-p") + 1] == 'L\'été $(rm) `x`\nIl dit "oui"'
    assert cli[cli.index("-sys") + 1] == "Compare les deux phrases."
    [curl] = [block for block in blocks if block[0] == "curl"]
    body = json.loads(curl[curl.index("-d") + 1])
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    [ollama] = [block for block in blocks if block[:2] == ["ollama", "run"]]
    assert ollama[2:] == ["x-q8_0", cli[cli.index("-p") + 1]]
    assert "`x-q8_0.gguf`, `x-f16.gguf`" in text and "answers `neutral`" in text


def other_task(**task: Any) -> PromptTokenizer:
    section = TaskSection(labels=("oui", "non"), **task)
    return PromptTokenizer(load_tokenizer(MODEL_FOLDER), section, 256)


def test_readme_of_a_single_text() -> None:
    prompt_tokenizer = other_task(system="Classe.", user="Avis : {text}")
    example = Example("1", {"text": "Bon film."}, "oui")
    text = render_readme(prompt_tokenizer, [Path("x-q8_0.gguf")], example)
    assert "```\nAvis : {text}\n```" in text and "answers `oui`" in text
    assert "ollama run x-q8_0 'Avis : Bon film.'" in text
    warned = render_readme(prompt_tokenizer, [Path("x-q8_0.gguf")], example, "Only compared.")
    assert "it answers" not in warned and "Only compared. Among the labels, `oui` is" in warned
    assert 'SYSTEM """Classe."""' in render_modelfile(prompt_tokenizer, Path("x.gguf"), 256)


def test_instruction_with_an_input_is_sent_per_row() -> None:
    """A Modelfile has one system prompt for all requests, so it cannot hold one that contains an input."""
    system = 'Réponds en JSON {"a": 1} sur {target}.'
    prompt_tokenizer = other_task(system=system, user="{target}\n{text}\n{note}")
    example = Example("1", {"target": "le climat", "text": "Agissons !", "note": "-"}, "non")
    assert "SYSTEM" not in render_modelfile(prompt_tokenizer, Path("x.gguf"), 256).replace(".System", "")
    text = render_readme(prompt_tokenizer, [Path("x-q8_0.gguf")], example)
    assert f"```\n{system}\n```" in text and "ollama run" not in text
    blocks = [shlex.split(block) for block in text.split("```")[1::2]]
    bodies = [json.loads(block[block.index("-d") + 1]) for block in blocks if block[0] == "curl"]
    assert [body["messages"][0]["content"] for body in bodies] == ['Réponds en JSON {"a": 1} sur le climat.'] * 2
    assert bodies[1]["model"] == "x-q8_0" and bodies[1]["messages"][1]["content"] == "le climat\nAgissons !\n-"
