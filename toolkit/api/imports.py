"""The order of imports that Unsloth asks for, checked before anything is loaded."""

import sys

from toolkit.errors import ModelError
from toolkit.runs.model_ref import ModelRef

_is_checked = False


def check_import_order() -> None:
    """Refuse a process in which someone else imported transformers before Unsloth could patch it.

    Asked once, at the first call of the API: a GGUF file needs transformers' tokenizer alone, so later it may be ours.

    Raises:
        ModelError: transformers is there, and Unsloth is not.
    """
    global _is_checked
    if not _is_checked and "transformers" in sys.modules and "unsloth" not in sys.modules:
        raise ModelError(
            "transformers was imported before Unsloth, which can then no longer patch it.",
            hint="Restart Python (in a notebook, its kernel) and import unsloth, or call toolkit, before transformers.",
        )
    _is_checked = True


def import_backend(model: ModelRef | None = None) -> None:
    """Import Unsloth and all that it patches, in the order that it needs; a GGUF file does without.

    Raises:
        ModelError: transformers was imported first, or Unsloth cannot be imported.
    """
    check_import_order()
    if model is None or not model.gguf:
        import toolkit.models.backend  # noqa: F401
