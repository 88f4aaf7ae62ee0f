"""Label new rows: a single one, or a file of any size in a format that training reads, which the output keeps.

python scripts/predict.py outputs/nli_fr --premise "Un chat dort." --hypothesis "Un animal dort."
python scripts/predict.py outputs/sentiment_fr --text "Le film est excellent."
python scripts/predict.py outputs/qa_nli --text context="Ada left." --text question="Who left?" --text response="Ada"
python scripts/predict.py outputs/nli_fr --input pairs.csv --output labeled.csv --calibrated

If it is interrupted, run the same command again: it resumes from OUTPUT.partial.
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.api.run import open_run
from toolkit.cli.command_line import add_overrides, add_run, opening, parser, run_command
from toolkit.cli.input_texts import add_text_flags, has_texts, read_text_flags
from toolkit.recipe.inputs import name_texts
from toolkit.utils.terminal import escape_control_characters


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--model", default="adapter", help="adapter (default), base, merged or a GGUF file")
    add_text_flags(flags)
    flags.add_argument("--input", type=Path, metavar="FILE", help="rows to label; the recipe names their columns")
    flags.add_argument("--output", type=Path, metavar="FILE", help="the same rows with predictions and probabilities")
    flags.add_argument("--calibrated", action="store_true", help="apply the temperature fitted by eval_generate.py")
    add_overrides(flags)
    arguments = flags.parse_args()
    file_flags = [arguments.input is not None, arguments.output is not None]
    if not (all(file_flags) if any(file_flags) else has_texts(arguments)) or (any(file_flags) and has_texts(arguments)):
        flags.error("give either --text (or --premise and --hypothesis), or --input and --output")
    return arguments


def main(arguments: Namespace) -> None:
    run, calibrated = open_run(arguments.run, arguments.overrides, **opening(arguments)), arguments.calibrated
    task = run.recipe.task
    if arguments.input:
        files = (arguments.input, arguments.output)
        truncated = run.predict_file(*files, arguments.model, calibrated=calibrated, progress=True)
        shortened = f"; {truncated:,} {name_texts(task.truncated_input)} were truncated" if truncated else ""
        print(f"labeled     {arguments.output}{shortened}")
        return
    inputs = read_text_flags(arguments, task.inputs)
    with run.load(arguments.model, calibrated=calibrated) as classifier:
        from toolkit.inference.prediction import predict_row

        prediction = predict_row(classifier, inputs)
    print(escape_control_characters(prediction.table(classifier.classes_)))


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
