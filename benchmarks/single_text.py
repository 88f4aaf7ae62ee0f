"""A single-text task that words alone cannot solve: accuracy of a model compared with baselines, and shared tokens.

python benchmarks/single_text.py --out outputs/bench/single-text-tiny
python benchmarks/single_text.py --model models/smollm2 --out outputs/bench/single-text-smollm2

Each text describes two things in French, one as good and one as bad, and names the one that counts: "Je ne juge que le
repas. La chambre n'est pas agréable, mais le repas n'est pas médiocre." Its label is the opinion about that thing.
Things and adjectives are balanced, and half of all adjectives are negated, so a classifier of words and word pairs is
right on about half of the rows: the label depends on which description belongs to the thing that counts, and on the
scope of its negation. With --task unseen, texts are English and have one adjective, and those of the evaluation do not
occur in training: "In my view: the meal was mediocre."
"""

import argparse
import csv
import random
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from side_by_side import Table, add_out_flag, report

LABELS = ("positif", "négatif")
THINGS = (
    "le repas", "la chambre", "le service", "la piscine", "le jardin", "la plage", "le quartier", "la terrasse",
    "le spectacle", "la visite", "le guide", "la musique",
)  # fmt: skip
# The same form for masculine and feminine, so that agreement gives nothing away.
ADJECTIVES = {
    "positif": ("agréable", "superbe", "magnifique", "formidable", "impeccable", "remarquable"),
    "négatif": ("horrible", "lamentable", "médiocre", "désagréable", "minable", "pénible"),
}
OPPOSITE = {"positif": "négatif", "négatif": "positif"}
OPENINGS = ("Pour moi, seul compte ceci : {thing}.", "Je ne juge que {thing}.", "Une seule chose m'importe : {thing}.")
SOURCES = ("I think", "My neighbor says", "As one guest wrote", "To be honest", "In my view", "The review says")
ENGLISH_THINGS = (
    "meal", "room", "service", "pool", "garden", "beach", "area", "terrace", "show", "visit", "guide", "music",
)  # fmt: skip
ENGLISH = {
    "positive": (
        "excellent", "wonderful", "great", "superb", "lovely", "delightful", "amazing", "perfect", "pleasant",
        "splendid", "charming", "brilliant", "fantastic", "marvelous", "impressive", "enjoyable",
    ),
    "negative": (
        "terrible", "awful", "bad", "horrible", "disgusting", "dreadful", "poor", "unpleasant", "disappointing", "dull",
        "annoying", "miserable", "mediocre", "boring", "useless", "ugly",
    ),
}  # fmt: skip
_SEEN = 10
"""The number of adjectives of each label that occur in training rows."""
LINKS = (", mais ", ", et ", " ; ")


def make_unseen_rows(count: int, seed: int, *, is_training: bool) -> list[tuple[str, str]]:
    """Return different English texts with one adjective each, and their labels.

    The adjectives of training and evaluation are disjoint, so a classifier of words can only guess.
    """
    generator, rows = random.Random(f"{seed} {is_training}"), dict[str, str]()
    while len(rows) < count:
        label = generator.choice(list(ENGLISH))
        words = ENGLISH[label][:_SEEN] if is_training else ENGLISH[label][_SEEN:]
        source, thing = generator.choice(SOURCES), generator.choice(ENGLISH_THINGS)
        rows[f"{source}: the {thing} was {generator.choice(words)}."] = label
    return list(rows.items())


def make_row(generator: random.Random) -> tuple[str, str]:
    """Return a text and its label."""
    first, second = generator.sample(THINGS, 2)
    opinion = generator.choice(LABELS)
    opinions = {first: opinion, second: OPPOSITE[opinion]}
    judged = generator.choice((first, second))
    clauses = [describe(thing, opinions[thing], generator) for thing in (first, second)]
    description = generator.choice(LINKS).join(clauses)
    text = f"{generator.choice(OPENINGS).format(thing=judged)} {description[0].upper()}{description[1:]}."
    return text, opinions[judged]


def describe(thing: str, opinion: str, generator: random.Random) -> str:
    """Return a clause that expresses an opinion about a thing, directly or by negating the opposite."""
    if generator.random() < 0.5:
        return f"{thing} est {generator.choice(ADJECTIVES[opinion])}"
    return f"{thing} n'est pas {generator.choice(ADJECTIVES[OPPOSITE[opinion]])}"


def make_rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Return different texts with their labels."""
    generator, rows = random.Random(seed), dict[str, str]()
    while len(rows) < count:
        text, label = make_row(generator)
        rows[text] = label
    return list(rows.items())


SYSTEM = {
    "unseen": "Answer positive if the opinion is favorable, and negative if it is not. Answer with this word only.",
    "scope": "Le texte parle de deux choses, mais une seule compte. Réponds « positif » si le texte en dit du bien, "
    "« négatif » s'il en dit du mal. Réponds par ce seul mot.",
}
"""The instruction of each task."""


def write_rows(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write a CSV file with the columns text and label."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def recipe_values(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the recipe as plain values."""
    return {
        "task": {
            "labels": list(LABELS if arguments.task == "scope" else ENGLISH),
            "system": SYSTEM[arguments.task],
            "user": "{text}",
        },
        "data": {"train": {"path": str(folder / "train.csv")}, "eval": {"path": str(folder / "test.csv")}},
        "model": {"name": arguments.model, "dtype": arguments.dtype, "max_seq_length": 256},
        "lora": {
            "r": arguments.rank, "alpha": arguments.rank, "dropout": 0.0,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
        "training": {
            "epochs": arguments.epochs, "max_steps": arguments.steps, "batch_size": 16, "warmup_ratio": 0.1,
            "learning_rate": arguments.learning_rate, "batching": "prefix_tree", "save_steps": 10_000,
        },
        "seed": arguments.seed,
    }  # fmt: skip


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and evaluate, and return the results."""
    import toolkit
    from toolkit.recipe.loading import build_recipe

    if arguments.task == "scope":
        rows = make_rows(arguments.rows + arguments.eval_rows, arguments.seed)
        train, test = rows[: arguments.rows], rows[arguments.rows :]
    else:
        train = make_unseen_rows(arguments.rows, arguments.seed, is_training=True)
        test = make_unseen_rows(arguments.eval_rows, arguments.seed, is_training=False)
    write_rows(folder / "train.csv", train)
    write_rows(folder / "test.csv", test)
    recipe = build_recipe(recipe_values(arguments, folder), "the recipe")
    batching = toolkit.preflight(recipe).job.plan.batching
    start = time.perf_counter()
    run = toolkit.train(recipe, output_dir=folder / "run", progress=True)
    seconds = time.perf_counter() - start
    run.evaluate("base")  # which makes it one of the baselines of the next evaluation
    adapter = run.evaluate()
    return {
        "task": arguments.task,
        "rows": arguments.rows,
        "ratio": batching.token_ratio,
        "reason": batching.reason,
        "seconds": seconds,
        "accuracy": adapter.accuracy,
        "accuracy_ci95": adapter.metrics["accuracy_ci95"],
        "baselines": adapter.metrics["baselines"],
    }


def main() -> None:
    """Run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:tiny-llama-fr", help="model folder, or embedded:tiny-llama-fr")
    parser.add_argument("--task", choices=list(SYSTEM), default="scope", help="scope (default) or unseen")
    parser.add_argument("--rows", type=int, default=2000, help="training rows")
    parser.add_argument("--eval-rows", type=int, default=500, help="evaluation rows, which are different texts")
    parser.add_argument("--epochs", type=float, default=3.0, help="passes over the training rows")
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of epochs")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="peak learning rate")
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapter")
    parser.add_argument("--dtype", default="float32", help="data type of the weights")
    parser.add_argument("--seed", type=int, default=42, help="seed of the rows and of the training")
    add_out_flag(parser)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        results = measure(arguments, Path(folder))
    title = f"Single texts, {Path(arguments.model).name}, {arguments.rows:,} training rows"
    report(title, [results], arguments.out, table)


def table(results: list[dict[str, Any]]) -> Table:
    """Return one table row per training, with the accuracy of the adapter and of every baseline."""
    names = list(results[0]["baselines"])
    header = ["task", "training rows", "adapter", *(name.replace("_", " ") for name in names)]
    return [[*header, "padded tokens per tree node", "training, s"]] + [
        [
            result["task"],
            f"{result['rows']:,}",
            "{:.1%} [{:.1%}, {:.1%}]".format(result["accuracy"], *result["accuracy_ci95"]),
            *(f"{result['baselines'][name]:.1%}" for name in names),
            f"{result['ratio']:.2f}",
            f"{result['seconds']:.0f}",
        ]
        for result in results
    ]


if __name__ == "__main__":
    main()
