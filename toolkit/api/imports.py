"""The import order that Unsloth requires, checked before anything is loaded."""

import sys

from toolkit.errors import ModelError
from toolkit.runs.model_ref import ModelRef

_is_checked = False


def check_import_order() -> None:
    """Check that the caller did not import transformers before Unsloth could patch it.

    Raises:
        ModelError: If transformers has been imported and Unsloth has not.
    """
    # Only the first call of the API is checked. A GGUF file needs the tokenizer of transformers but not Unsloth, so
    # after that call the toolkit itself may have imported transformers.
    global _is_checked
    if not _is_checked and "transformers" in sys.modules and "unsloth" not in sys.modules:
        raise ModelError(
            "transformers was imported before Unsloth, so Unsloth can no longer patch it.",
            hint="Restart Python (or the notebook's kernel), and call the toolkit before importing transformers.",
        )
    _is_checked = True


def import_backend(model: ModelRef | None = None) -> None:
    """Import Unsloth and the libraries that it patches, in the required order; GGUF files need none of them.

    Raises:
        ModelError: If transformers was imported first, or Unsloth cannot be imported.
    """
    check_import_order()
    if model is None or not model.gguf:
        # The import alone does the work: backend.py imports unsloth before trl and peft.
        import toolkit.models.backend  # noqa: F401
