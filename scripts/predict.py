"""Label new pairs: one, or a file of any size (.jsonl, .csv, .tsv, .parquet), which comes out in the same format.

python scripts/predict.py outputs/nli_fr --premise "Un chat dort." --hypothesis "Un animal dort."
python scripts/predict.py outputs/nli_fr --input pairs.csv --output labelled.csv --calibrated

An interrupted file goes on from OUTPUT.partial when the same command is given again.
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.command_line import add_overrides, add_run, parser, run_command
from toolkit.data.annotate import refuse_formats
from toolkit.recipe_file import load_recipe
from toolkit.run_folder import RunFolder
from toolkit.run_place import refuse_unwritable
from toolkit.visible_text import visible


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--model", default="adapter", help="adapter (default), base, merged, or a GGUF file")
    flags.add_argument("--premise", metavar="TEXT", help="of the one pair to label")
    flags.add_argument("--hypothesis", metavar="TEXT", help="of the one pair to label")
    flags.add_argument("--input", type=Path, metavar="FILE", help="the rows to label; the recipe names their columns")
    flags.add_argument("--output", type=Path, metavar="FILE", help="the same rows with prediction and probabilities")
    flags.add_argument("--calibrated", action="store_true", help="with the temperature that eval_generate.py found")
    add_overrides(flags)
    arguments = flags.parse_args()
    pair = [arguments.premise is not None, arguments.hypothesis is not None]
    file = [arguments.input is not None, arguments.output is not None]
    if not (all(pair) and not any(file)) and not (all(file) and not any(pair)):
        flags.error("give either --premise and --hypothesis, or --input and --output")
    return arguments


def main(arguments: Namespace) -> None:
    run = RunFolder.open(arguments.run)
    recipe = load_recipe(run.recipe, arguments.overrides)
    run.model_label(arguments.model, recipe.model.kind)  # what is refused is refused before anything heavy is imported
    if arguments.input:
        refuse_formats(arguments.input, arguments.output)
        refuse_unwritable(arguments.output.parent, hint="Give another --output.")
    from toolkit.decoding.predict import Predictor

    predictor = Predictor(run, recipe, model=arguments.model, calibrated=arguments.calibrated)
    if arguments.input:
        shortened = predictor.file(arguments.input, arguments.output)
        print(f"labelled    {arguments.output}" + (f"; {shortened:,} premises lost their end" if shortened else ""))
        return
    answer = predictor.pair(arguments.premise, arguments.hypothesis)
    print(visible(answer.table(predictor.labels)))


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
