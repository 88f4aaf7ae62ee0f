"""Instructions for running an exported GGUF file: a Modelfile for Ollama, command lines for llama.cpp and Ollama."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.data.example import Example
from toolkit.prompts.messages import prompt_messages
from toolkit.prompts.ollama_template import render_ollama_template, triple_quoted
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import normalizes_to_nfc
from toolkit.recipe.schema import TaskSection
from toolkit.reporting.markdown import code_block, code_span, escape_markdown

_MIN_CONTEXT_LENGTH = 2048  # tokens
_ATTENTION_FLAGS = "--flash-attn off --cache-type-k f32 --cache-type-v f32"
"""llama.cpp's flags for attention in float32, as in `LlamaCpp`.

In plain chats, the q8_0 file of a trained Gemma 3 270M gave the evaluated answer for 50 of 50 rows with them, and for
48 without."""


def render_modelfile(prompt_tokenizer: PromptTokenizer, gguf: Path, context_length: int) -> str:
    """Return an Ollama Modelfile that prompts the model exactly as the run's chat template does.

    Syntax: https://docs.ollama.com/modelfile.

    Args:
        prompt_tokenizer: The run's tokenizer, chat template, and task.
        gguf: The GGUF file, in the same folder as the Modelfile.
        context_length: The recipe's maximum row length, in tokens.

    Raises:
        ExportError: If the prompt contains three quotation marks in a row, which a Modelfile cannot express.
    """
    end = prompt_tokenizer.decode([prompt_tokenizer.end_of_turn])
    lines = [
        f"FROM ./{gguf.name}",
        f"TEMPLATE {triple_quoted(render_ollama_template(prompt_tokenizer) + '{{ .Response }}' + end)}",
    ]
    task = prompt_tokenizer.task
    if task.system and not _varies_system(task):  # otherwise each request has to bring its own
        lines.append(f"SYSTEM {triple_quoted(task.system.strip())}")
    # The end-of-turn token is part of each label's ids, so this limit leaves room for it.
    max_tokens = max(len(ids) for ids in prompt_tokenizer.label_ids.values())
    lines += [
        f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}",
        "PARAMETER temperature 0",
        f"PARAMETER num_predict {max_tokens}",
        f"PARAMETER num_ctx {max(context_length, _MIN_CONTEXT_LENGTH)}",
    ]
    return "\n".join(lines) + "\n"


def _varies_system(task: TaskSection) -> bool:
    """Return whether the instruction contains an input, so that each row has its own."""
    return any(f"{{{name}}}" in (task.system or "") for name in task.inputs)


def render_readme(
    prompt_tokenizer: PromptTokenizer,
    files: Sequence[Path],
    example: Example,
    warning: str | None = None,
    *,
    refused: Sequence[Path] = (),
) -> str:
    """Return the README of the folder of GGUF files.

    Args:
        prompt_tokenizer: The run's tokenizer, chat template, and task.
        files: The GGUF files, starting with the one that the command lines use.
        example: A row whose label is the one that the model predicts for it.
        warning: A warning about chats, see `TrainingSection.chat_warning`.
        refused: The files that the parity gate refused.
    """
    task = prompt_tokenizer.task
    *system, question = prompt_messages(task, example.inputs)
    quoted_file, name = shlex.quote(files[0].name), files[0].stem
    ollama_name = re.sub(r"[^a-z0-9._-]+", "-", name.lower())
    quoted_question = shlex.quote(question["content"])
    system_flag = f"-sys {shlex.quote(system[0]['content'])} " if system else ""
    system_note = ", preceded by the system prompt it was trained with," if system else ""
    forms = [code_block(task.user.strip())]
    ollama = f"ollama run {ollama_name} {quoted_question}"
    if _varies_system(task):
        system_note = " and a system prompt of the form below,"
        forms.append(code_block((task.system or "").strip()))
        body = {"model": ollama_name, "messages": [*system, question], "stream": False}
        ollama = _curl("http://127.0.0.1:11434/api/chat", body)
    body = {"messages": [*system, question], "temperature": 0}
    label = code_span(task.verbalizers[example.label])
    answer = f"For the example below it answers {label}."
    if warning is not None:
        answer = f"{warning} Among the labels, {label} is the most probable one for the example below."
    return "\n\n".join(
        [
            f"# {escape_markdown(name)}",
            f"Files: {_name_files(files)}. `parity.json` reports how closely each "
            f"of them agrees with the evaluated model.{_refusal_note(refused)}",
            f"The model expects a single user message of this form{system_note} and temperature 0:",
            *forms,
            f"{answer}{_date_note(prompt_tokenizer)}{_unicode_note(prompt_tokenizer)}",
            "## llama.cpp",
            code_block(
                f"llama-cli -m {quoted_file} --jinja --temp 0 {_ATTENTION_FLAGS} --single-turn "
                f"{system_flag}-p {quoted_question}"
            ),
            "As a server:",
            code_block(f"llama-server -m {quoted_file} --jinja --temp 0 {_ATTENTION_FLAGS} --port 8080"),
            code_block(_curl("http://127.0.0.1:8080/v1/chat/completions", body)),
            "The measurements were made with the same flags for attention. With llama.cpp's defaults or Ollama, the "
            "answer can differ if two labels are almost equally probable.",
            "## Ollama",
            code_block(f"ollama create {ollama_name} -f Modelfile"),
            code_block(ollama) + "\n",
        ]
    )


def _name_files(files: Sequence[Path]) -> str:
    return ", ".join(code_span(file.name) for file in files)


def _refusal_note(refused: Sequence[Path]) -> str:
    if not refused:
        return ""
    return f" Do not use {_name_files(refused)}: the parity gate refused {'it' if len(refused) == 1 else 'them'}."


def _curl(url: str, body: dict[str, Any]) -> str:
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl -s {url} -H 'Content-Type: application/json' -d {data}"


def _date_note(prompt_tokenizer: PromptTokenizer) -> str:
    date = prompt_tokenizer.task.date_string
    is_printed = date and prompt_tokenizer.template.prints_date
    return f" Its chat template always gives {date} as today's date, as in training." if is_printed else ""


def _unicode_note(prompt_tokenizer: PromptTokenizer) -> str:
    if not normalizes_to_nfc(prompt_tokenizer.tokenizer):
        return ""
    return " Send texts in Unicode's NFC form: llama.cpp does not convert other forms, as training did."
