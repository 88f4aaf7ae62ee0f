"""The texts of a single row on the command line: `--text NAME=VALUE` for each input."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence

from toolkit.cli.command_line import utf8_text
from toolkit.errors import DataError
from toolkit.recipe.inputs import NLI_INPUTS


def parse_texts(texts: Iterable[str], inputs: Sequence[str]) -> dict[str, str]:
    """Return the text of each input, in the order of `inputs`.

    Args:
        texts: NAME=VALUE for each input, in any order. Only the first "=" separates the two. The name can be left out
            if there is a single input; then a text that starts with its name and "=" needs the name before it.
        inputs: The names of the inputs.

    Raises:
        DataError: If an input is missing, unknown or given twice.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in inputs:
            if len(inputs) > 1:
                raise _input_error(f"{text!r:.80} does not start with the name of an input", inputs)
            name, value = inputs[0], text
        if name in given:
            raise _input_error(f"The input {name} is given twice", inputs)
        given[name] = value
    if missing := [name for name in inputs if name not in given]:
        raise _input_error(f"The input {missing[0]} is missing", inputs)
    return {name: given[name] for name in inputs}


def add_text_flags(flags: ArgumentParser) -> None:
    """Add --text, and the shorter --premise and --hypothesis."""
    flags.add_argument(
        "--text", type=utf8_text, metavar="[NAME=]VALUE", action="append", default=[],
        help="text of an input of the single row to label (repeatable); a task with one input needs no NAME",
    )  # fmt: skip
    for name in NLI_INPUTS:
        flags.add_argument(f"--{name}", type=utf8_text, metavar="TEXT", help=f"the same as --text {name}=TEXT")


def add_file_flags(flags: ArgumentParser) -> None:
    """Add --input, --output and --ray."""
    flags.add_argument("--input", metavar="FILE", help="rows to label; the recipe names their columns")
    flags.add_argument("--output", metavar="FILE", help="the same rows with predictions and probabilities")
    flags.add_argument(
        "--ray", metavar="ADDRESS",
        help="label many files on a Ray cluster: HOST:PORT, ray://HOST:PORT, auto or local (this machine); --input is "
        'then a pattern, e.g. "shards/*.parquet" or s3://bucket/*.parquet, and --output a folder',
    )  # fmt: skip


def check_flags(flags: ArgumentParser, arguments: Namespace) -> None:
    """Check that either texts or files are given, and exit with a message otherwise."""
    files = [arguments.input is not None, arguments.output is not None]
    if any(files) == has_texts(arguments) or any(files) != all(files):
        flags.error("give either --text (or --premise and --hypothesis), or --input and --output")
    if arguments.ray is not None and not all(files):
        flags.error("--ray is for --input and --output")


def has_texts(arguments: Namespace) -> bool:
    """Return whether one of the flags of `add_text_flags` was given."""
    return bool(arguments.text) or any(getattr(arguments, name) is not None for name in NLI_INPUTS)


def read_text_flags(arguments: Namespace, inputs: Sequence[str]) -> dict[str, str]:
    """Return the text of each input from the flags of `add_text_flags`; see `parse_texts`."""
    texts = list(arguments.text)
    for name in NLI_INPUTS:
        if (text := getattr(arguments, name)) is not None:
            check_is_input(name, inputs)
            texts.append(f"{name}={text}")
    return parse_texts(texts, inputs)


def check_is_input(name: str, inputs: Sequence[str]) -> None:
    """Check that a row has an input for which there is a dedicated flag, such as --premise.

    Raises:
        DataError: If it does not.
    """
    if name not in inputs:
        raise _input_error(f"A row of this run has no input {name}", inputs)


def _input_error(problem: str, inputs: Sequence[str]) -> DataError:
    listed = ", ".join(inputs)
    return DataError(
        f"{problem}; the {'inputs are' if len(inputs) > 1 else 'input is'} {listed}.",
        hint=f"Write {' '.join(f'--text {name}=VALUE' for name in inputs) if len(inputs) > 1 else '--text VALUE'}.",
    )
