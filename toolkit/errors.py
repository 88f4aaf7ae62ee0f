"""Every error a user can cause, each with one sentence, a hint and the exit code it ends the process with."""

EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_GATE_REFUSED = 3
EXIT_INTERRUPTED = 130


def first_line(error: BaseException) -> str:
    """What another package's exception says, in one line; its type where it says nothing."""
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"there is no {said}" if isinstance(error, KeyError) else said  # which says the key alone


class ToolkitError(Exception):
    """Base of the tree.

    Args:
        message: what was given and why it cannot work; one sentence, or one line per mistake.
        hint: what to write instead, shown on a line of its own. Both name arguments of the API (`overwrite=True`);
            commands turn them into flags, see `cli.flags`.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class RecipeError(ToolkitError, ValueError):
    """The recipe, or an override of it, cannot be used."""


class DataError(ToolkitError, ValueError):
    """The rows cannot be read, or cannot be trained on or scored."""


class RunError(ToolkitError, ValueError):
    """The run folder is missing, taken, or does not hold what the command needs."""


class ModelError(ToolkitError, RuntimeError):
    """The model, tokenizer or adapter cannot be loaded as asked."""


class DeviceMemoryError(ToolkitError, MemoryError):
    """The device has too little memory for the model or for a step."""

    exit_code = EXIT_FAILURE


class StorageError(ToolkitError, OSError):
    """There is no room for a file; what was there before is as it was."""

    exit_code = EXIT_FAILURE


class TrainingError(ToolkitError, RuntimeError):
    """Training had to stop: its numbers are no longer those of the recipe."""

    exit_code = EXIT_FAILURE


class GateError(ToolkitError, RuntimeError):
    """Everything was done, and what came out does not pass the check that it has to."""

    exit_code = EXIT_GATE_REFUSED


class ParityError(GateError):
    """Raised when exported files do not answer as the adapter did; `result` holds the files and their parity.

    Args:
        message: which files, of which run.
        hint: where the reasons are.
        result: an `export.exporter.ExportResult`.
    """

    def __init__(self, message: str, *, hint: str | None = None, result: object = None) -> None:
        super().__init__(message, hint=hint)
        self.result = result


class ExportError(ToolkitError, RuntimeError):
    """The model cannot be exported as asked."""


class QuantizerError(ExportError):
    """llama.cpp's quantiser began and failed."""

    exit_code = EXIT_FAILURE
