"""Label new pairs: a single one, or a file of any size (.jsonl, .csv, .tsv or .parquet; the output has its format).

python scripts/predict.py outputs/nli_fr --premise "Un chat dort." --hypothesis "Un animal dort."
python scripts/predict.py outputs/nli_fr --input pairs.csv --output labeled.csv --calibrated

If it is interrupted, run the same command again: it resumes from OUTPUT.partial.
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.api.run import open_run
from toolkit.cli.command_line import add_overrides, add_run, opening, parser, run_command, utf8_text
from toolkit.utils.terminal import escape_control_characters


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--model", default="adapter", help="adapter (default), base, merged or a GGUF file")
    flags.add_argument("--premise", type=utf8_text, metavar="TEXT", help="premise of a single pair to label")
    flags.add_argument("--hypothesis", type=utf8_text, metavar="TEXT", help="hypothesis of a single pair to label")
    flags.add_argument("--input", type=Path, metavar="FILE", help="rows to label; the recipe names their columns")
    flags.add_argument("--output", type=Path, metavar="FILE", help="the same rows with predictions and probabilities")
    flags.add_argument("--calibrated", action="store_true", help="apply the temperature fitted by eval_generate.py")
    add_overrides(flags)
    arguments = flags.parse_args()
    pair_flags = [arguments.premise is not None, arguments.hypothesis is not None]
    file_flags = [arguments.input is not None, arguments.output is not None]
    if not (all(pair_flags) and not any(file_flags)) and not (all(file_flags) and not any(pair_flags)):
        flags.error("give either --premise and --hypothesis, or --input and --output")
    return arguments


def main(arguments: Namespace) -> None:
    run, calibrated = open_run(arguments.run, arguments.overrides, **opening(arguments)), arguments.calibrated
    if arguments.input:
        files = (arguments.input, arguments.output)
        truncated = run.predict_file(*files, arguments.model, calibrated=calibrated, progress=True)
        print(f"labeled     {arguments.output}" + (f"; {truncated:,} premises were truncated" if truncated else ""))
        return
    with run.load(arguments.model, calibrated=calibrated) as classifier:
        from toolkit.inference.prediction import predict_pair

        prediction = predict_pair(classifier, arguments.premise, arguments.hypothesis)
    print(escape_control_characters(prediction.table(classifier.classes_)))


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
