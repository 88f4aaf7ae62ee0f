"""Label new rows: a single one, or a file of any size in a format that training reads, which the output keeps.

python scripts/predict.py outputs/nli_fr --premise "Un chat dort." --hypothesis "Un animal dort."
python scripts/predict.py outputs/sentiment_fr --text "Le film est excellent."
python scripts/predict.py outputs/qa_nli --text context="Ada left." --text question="Who left?" --text response="Ada"
python scripts/predict.py outputs/nli_fr --input pairs.csv --output labeled.csv --calibrated
python scripts/predict.py outputs/nli_fr --input "shards/*.parquet" --output labeled/ --ray local

If it is interrupted, run the same command again: it resumes from OUTPUT.partial, or with the shards that are missing.
"""

import sys
from argparse import Namespace

from toolkit.api.run import open_run
from toolkit.cli.command_line import add_overrides, add_run, opening, parser, run_command
from toolkit.cli.input_texts import add_file_flags, add_text_flags, check_flags, read_text_flags
from toolkit.cli.shard_flags import label_shards
from toolkit.recipe.inputs import name_texts
from toolkit.utils.terminal import escape_control_characters


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--model", default="adapter", help="adapter (default), base, merged or a GGUF file")
    add_text_flags(flags)
    add_file_flags(flags)
    flags.add_argument("--calibrated", action="store_true", help="apply the temperature fitted by eval_generate.py")
    add_overrides(flags)
    arguments = flags.parse_args()
    check_flags(flags, arguments)
    return arguments


def main(arguments: Namespace) -> None:
    if arguments.ray is not None:
        label_shards(arguments)
        return
    run, calibrated = open_run(arguments.run, arguments.overrides, **opening(arguments)), arguments.calibrated
    task = run.recipe.task
    if arguments.input:
        truncated = run.predict_file(
            arguments.input, arguments.output, arguments.model, calibrated=calibrated, progress=True
        )
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
