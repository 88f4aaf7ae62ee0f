"""How to run an exported GGUF elsewhere: a Modelfile for Ollama, and command lines for llama.cpp and Ollama."""

import json
import re
import shlex
from pathlib import Path

from toolkit.errors import ExportError
from toolkit.prompts.encoder import PromptEncoder
from toolkit.prompts.messages import prompt_messages

_OLLAMA_PLACEHOLDERS = {"system": "{{ .System }}", "user": "{{ .Prompt }}"}
_MIN_CONTEXT_LENGTH = 2048


def modelfile(encoder: PromptEncoder, gguf: Path, context_length: int) -> str:
    """Ollama's description of the model: the prompt of one question, as the chat template renders it.

    The syntax: https://docs.ollama.com/modelfile.

    Args:
        encoder: the run's chat template and task.
        gguf: the file, which stands beside the Modelfile.
        context_length: the longest row of the recipe, in tokens.

    Raises:
        ExportError: the instruction holds three quotation marks in a row, which a Modelfile cannot.
    """
    end = encoder.decode([encoder.end_of_turn])
    lines = [f"FROM ./{gguf.name}", f"TEMPLATE {_triple_quoted(ollama_template(encoder) + '{{ .Response }}' + end)}"]
    if encoder.task.system:
        lines.append(f"SYSTEM {_triple_quoted(encoder.task.system.strip())}")
    max_tokens = max(len(ids) for ids in encoder.label_ids.values())
    lines += [
        f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}",
        "PARAMETER temperature 0",
        f"PARAMETER num_predict {max_tokens}",
        f"PARAMETER num_ctx {max(context_length, _MIN_CONTEXT_LENGTH)}",
    ]
    return "\n".join(lines) + "\n"


def ollama_template(encoder: PromptEncoder) -> str:
    """The prompt up to the answer as a Go template; without the first token, which Ollama adds by itself."""
    text = ""
    for role, piece in encoder.template.pieces():
        text += _OLLAMA_PLACEHOLDERS[role] if role else piece.replace("{{", '{{ "{{" }}')
    bos = encoder.tokenizer.bos_token
    return text.removeprefix(bos) if bos else text


def _triple_quoted(text: str) -> str:
    if '"""' in text:
        raise ExportError(
            "A Modelfile cannot hold three quotation marks in a row, and the prompt has them.",
            hint="Write task.system and the chat template without them.",
        )
    return f'"""{text}"""'


def usage(encoder: PromptEncoder, files: list[Path], example: tuple[str, str, str]) -> str:
    """A README for the folder of GGUF files.

    Args:
        encoder: the run's chat template and task.
        files: the files, the one to recommend first.
        example: premise, hypothesis, and the label that the model gives them.
    """
    task = encoder.task
    *system, question = prompt_messages(task, *example[:2])
    quoted_file, name = shlex.quote(files[0].name), files[0].stem
    ollama_name = re.sub(r"[^a-z0-9._-]+", "-", name.lower())
    quoted_question = shlex.quote(question["content"])
    system_flag = f"-sys {shlex.quote(system[0]['content'])} " if system else ""
    system_note = ", after the instruction it was trained with," if system else ""
    messages = json.dumps({"messages": [*system, question], "temperature": 0}, ensure_ascii=False)
    url = "http://127.0.0.1:8080/v1/chat/completions"
    return "\n\n".join(
        [
            f"# {name}",
            f"Files: {', '.join(f'`{file.name}`' for file in files)}. How each agrees with the model that was measured "
            "stands in `parity.json`.",
            f"The model answers one user message of this form{system_note} at temperature 0:",
            _fenced_block(task.user.strip()),
            f"To the question below it answers `{task.verbalizers[example[2]].strip()}`.{_date_note(encoder)}",
            "## llama.cpp",
            _fenced_block(
                f"llama-cli -m {quoted_file} --jinja --temp 0 --single-turn {system_flag}-p {quoted_question}"
            ),
            "As a server:",
            _fenced_block(f"llama-server -m {quoted_file} --jinja --temp 0 --port 8080"),
            _fenced_block(f"curl -s {url} -H 'Content-Type: application/json' -d {shlex.quote(messages)}"),
            "## Ollama",
            _fenced_block(f"ollama create {ollama_name} -f Modelfile"),
            _fenced_block(f"ollama run {ollama_name} {quoted_question}") + "\n",
        ]
    )


def _date_note(encoder: PromptEncoder) -> str:
    date = encoder.task.date_string
    is_printed = date and any(date in text for _, text in encoder.template.pieces())
    return f" Its chat template prints {date} as today's date, on any day: so it was trained." if is_printed else ""


def _fenced_block(text: str) -> str:
    """A fenced block that no text can close early."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
