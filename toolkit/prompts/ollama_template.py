"""The prompt as Ollama's Modelfile writes it: a Go template and texts in triple quotation marks."""

from toolkit.errors import ExportError
from toolkit.prompts.prompt_tokenizer import PromptTokenizer

_OLLAMA_PLACEHOLDERS = {"system": "{{ .System }}", "user": "{{ .Prompt }}"}


def render_ollama_template(prompt_tokenizer: PromptTokenizer) -> str:
    """Return the prompt up to the answer as a Go template, without the first token, which Ollama adds itself."""
    text = ""
    for role, piece in prompt_tokenizer.template.split_prompt():
        # Go would read literal braces as an action, so they are printed by one: {{ "{{" }}.
        text += _OLLAMA_PLACEHOLDERS[role] if role else piece.replace("{{", '{{ "{{" }}')
    bos = prompt_tokenizer.tokenizer.bos_token
    return text.removeprefix(bos) if bos else text


def triple_quoted(text: str) -> str:
    """Return a text in triple quotation marks.

    Raises:
        ExportError: If the text contains three quotation marks in a row, which a Modelfile cannot express.
    """
    if '"""' in text:
        raise ExportError(
            "The prompt contains three quotation marks in a row, which a Modelfile cannot express.",
            hint="Remove them from task.system and the chat template.",
        )
    return f'"""{text}"""'
