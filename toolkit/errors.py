"""Errors that a user can cause or fix; each carries a message, a hint and the exit code of the process."""

EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_GATE_REFUSED = 3
EXIT_INTERRUPTED = 130  # 128 + SIGINT (2), as shells report a process that Ctrl-C ended


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if the message is empty."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # huggingface_hub's first line only announces the reason: "Validation error for field 'head_dim':"
    message = " ".join(map(str.strip, lines[:2])) if lines[0].endswith(":") else lines[0]
    # The message of a KeyError is only the quoted key, which explains nothing.
    return f"there is no {message}" if isinstance(error, KeyError) else message


class ToolkitError(Exception):
    """Base class of the toolkit's errors.

    Each subclass also derives from a matching built-in exception, so that code that does not know the toolkit can catch
    it, for example as a ValueError.

    Args:
        message: What was given and why it cannot work: one sentence, or one line per mistake.
        hint: What to do instead, shown on a separate line. Message and hint name arguments of the API
            (`overwrite=True`). Commands translate these into their flags, see `cli.flags`.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class RecipeError(ToolkitError, ValueError):
    """Raised when the recipe, or an override of one of its values, is invalid."""


class DataError(ToolkitError, ValueError):
    """Raised when rows cannot be read, or cannot be used for training or scoring."""


class RunError(ToolkitError, ValueError):
    """Raised when a run folder is missing, already in use, or lacks what an operation needs."""


class ModelError(ToolkitError, RuntimeError):
    """Raised when a model, tokenizer or adapter cannot be loaded as requested."""


class DeviceMemoryError(ToolkitError, MemoryError):
    """Raised when the device does not have enough memory for the model or for a step."""

    exit_code = EXIT_FAILURE


class StorageError(ToolkitError, OSError):
    """Raised when there is no space for a file; the file's previous version is unchanged."""

    exit_code = EXIT_FAILURE


class TrainingError(ToolkitError, RuntimeError):
    """Raised when training stops because continuing would give a wrong or useless adapter."""

    exit_code = EXIT_FAILURE


class StudyError(ToolkitError, RuntimeError):
    """Raised when cells of a study have failed; the results of the others are written."""

    exit_code = EXIT_FAILURE


class WorkerError(ToolkitError, RuntimeError):
    """Raised when workers on other machines fail; what is finished is kept."""

    exit_code = EXIT_FAILURE


class GateError(ToolkitError, RuntimeError):
    """Raised when the work is done but its result fails a required check."""

    exit_code = EXIT_GATE_REFUSED


class SealError(GateError):
    """Raised when a file of a run is not the one that was recorded when it was made."""


class ParityError(GateError):
    """Raised when exported files do not reproduce the adapter's answers.

    Args:
        message: The files that failed, and their run.
        hint: Where to find the reasons.
        result: The `export.exporter.ExportResult` with the files and their agreement with the adapter.
    """

    def __init__(self, message: str, *, hint: str | None = None, result: object = None) -> None:
        super().__init__(message, hint=hint)
        self.result = result


class ExportError(ToolkitError, RuntimeError):
    """Raised when the model cannot be exported as requested."""


class UnsupportedModelError(ExportError):
    """Raised when the toolkit's own GGUF writer does not know a model's architecture or tokenizer."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="Pass converter=PATH with the path of llama.cpp's own convert_hf_to_gguf.py, which knows more models.",
        )


class QuantizerError(ExportError):
    """Raised when llama.cpp's quantizer starts but fails."""

    exit_code = EXIT_FAILURE


class ConverterError(ExportError):
    """Raised when llama.cpp's converter starts but fails."""

    exit_code = EXIT_FAILURE
