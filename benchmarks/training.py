"""Time per optimizer step, memory and gradients: this toolkit compared with transformers' Trainer and TRL on Unsloth.

python benchmarks/training.py models/llama-1b --train train.jsonl --out outputs/bench/training-1b
python benchmarks/training.py embedded:tiny-llama-fr --recipe recipes/quickstart.yaml --out outputs/bench/training-tiny

All systems train on the same rows in the same order, from the same adapter weights, in float32, without dropout and
without gradient checkpointing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side_by_side import Table, create_parser, median_seconds, peak_gb, prepare_job, report, take_turns
from training_systems import OURS, PEERS, run_worker


def summarize(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one entry per system.

    `against` is the speed relative to each of `PEERS`: the ratio of the medians. `gradient_differences` are relative,
    over the complete adapter at the first step, compared with each of `PEERS` that ran before. `gradient_difference`
    is the one compared with TRL on Unsloth, which differs from ours only in its padded rows, or else with transformers.
    It is None if neither ran before, or if the first step has different rows because they are grouped.
    """
    peers = [system for system in PEERS if system in results]
    entries = []
    for system, rounds in results.items():
        differences = {} if OURS.get(system) else rounds[0]["gradient_difference"]
        entries.append(
            {
                "name": system,
                "seconds_per_step": round(median_seconds(rounds), 5),
                "against": {peer: round(median_seconds(results[peer]) / median_seconds(rounds), 4) for peer in peers},
                "peak_gb": round(peak_gb(rounds), 3),
                "gradient_difference": [None, *differences.values()][-1],
                "gradient_differences": differences,
                "tokens_per_step": mean_tokens(rounds),
                "seconds": [result["seconds"] for result in rounds],
            }
        )
    return entries


def table(systems: list[dict[str, Any]]) -> Table:
    """Return one table row per system."""
    peers = list(systems[0]["against"])
    tokens = {system["name"]: system["tokens_per_step"] for system in systems}
    ratios, predicted = ([f"{text} {peer}" for peer in peers] for text in ("vs.", "predicted by tokens, vs."))
    header = ["system", "s per step", *ratios, "tokens read", *predicted, "peak GB", "gradient difference"]
    return [header] + [
        [
            system["name"],
            f"{system['seconds_per_step']:.3g}",
            *(f"{system['against'][peer]:.2f}x" for peer in peers),
            f"{tokens[system['name']]:,.0f}",
            *(f"{tokens[peer] / tokens[system['name']]:.2f}x" for peer in peers),
            f"{system['peak_gb']:.2f}",
            ", ".join(f"{value:.1e}" for value in system["gradient_differences"].values()) or "-",
        ]
        for system in systems
    ]


def mean_tokens(rounds: Sequence[dict[str, Any]]) -> float:
    """Return the mean number of tokens that the model reads in a step."""
    counts = [count for result in rounds for count in result["tokens"]]
    return sum(counts) / len(counts)


def main() -> None:
    """Run the benchmark and report the results."""
    parser = create_parser(__doc__ or "", [*PEERS, *OURS])
    parser.add_argument("--train", help="file with the rows (default: data.train of the recipe)")
    parser.add_argument("--batch", type=int, default=16, help="rows per optimizer step")
    parser.add_argument(
        "--micro", type=int, help="rows per micro-batch of the other systems, if a batch does not fit into memory"
    )
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of each system in each round")
    parser.add_argument(
        "--loss-on", choices=["completion", "full_text"], default="completion", help="tokens that are trained"
    )
    arguments = parser.parse_args()
    if arguments.batch % (arguments.micro or arguments.batch):
        parser.error(f"--micro {arguments.micro} does not divide --batch {arguments.batch}")
    job, prepared = prepare_job(__file__, arguments, ("train", "batch", "micro", "steps", "loss_on"))
    inputs = {"rows": prepared["rows"], "lora": prepared["lora"]}
    results = take_turns(__file__, job | inputs, arguments.systems, arguments.rounds)
    title = f"Training, {Path(arguments.model).name}, batch {arguments.batch}, loss on {arguments.loss_on}"
    report(title, summarize(results), arguments.out, table, batch=arguments.batch)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        run_worker(Path(sys.argv[2]))
    else:
        main()
