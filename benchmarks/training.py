"""Seconds per optimiser step, peak memory and gradients: this toolkit beside transformers' Trainer and TRL on Unsloth.

python benchmarks/training.py models/llama-1b --train train.jsonl --out outputs/bench/training-1b
python benchmarks/training.py embedded:tiny-llama-fr --recipe recipes/quickstart.yaml --out outputs/bench/training-tiny

Each system gets the same rows in the same order, the same adapter weights, float32, no dropout, no checkpointing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side_by_side import median_seconds, parser, peak_gb, prepared, report, take_turns
from training_systems import OURS, PEERS, work


def table(results: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """One line per system."""
    peers = [system for system in PEERS if system in results]
    rows = []
    for system, said in results.items():
        seconds, tokens = median_seconds(said), mean_tokens(said)
        ratios = [f"{median_seconds(results[peer]) / seconds:.2f}x" for peer in peers]
        predicted = [f"{mean_tokens(results[peer]) / tokens:.2f}x" for peer in peers]
        differences = ", ".join(f"{value:.1e}" for value in said[0]["gradient_difference"].values()) or "-"
        is_grouped = OURS.get(system, False)
        rows.append(
            [
                system,
                f"{seconds:.3g}",
                *ratios,
                f"{tokens:,.0f}",
                *predicted,
                f"{peak_gb(said):.2f}",
                "other rows" if is_grouped else differences,
            ]
        )
    return rows


def mean_tokens(said: Sequence[dict[str, Any]]) -> float:
    """Tokens that the model reads in a step."""
    counts = [count for one in said for count in one["tokens"]]
    return sum(counts) / len(counts)


def main() -> None:
    """Parse, run, report."""
    flags = parser(__doc__ or "", [*PEERS, *OURS])
    flags.add_argument("--train", help="a file of rows; default: the recipe's data.train")
    flags.add_argument("--batch", type=int, default=16, help="rows per optimiser step")
    flags.add_argument("--micro", type=int, help="rows per forward pass of the peers, where a batch does not fit")
    flags.add_argument("--steps", type=int, default=3, help="optimiser steps of each system in each round")
    flags.add_argument("--loss-on", choices=["completion", "full_text"], default="completion")
    arguments = flags.parse_args()
    if arguments.batch % (arguments.micro or arguments.batch):
        flags.error(f"--micro {arguments.micro} does not divide --batch {arguments.batch}")
    job, found = prepared(__file__, arguments, ("train", "batch", "micro", "steps", "loss_on"))
    inputs = {"rows": found["rows"], "lora": found["lora"]}
    results = take_turns(__file__, job | inputs, arguments.systems, arguments.rounds)
    peers = [peer for peer in PEERS if peer in results]
    against, by_tokens = ([f"{text} {peer}" for peer in peers] for text in ("against", "by tokens, against"))
    header = ["system", "s per step", *against, "tokens read", *by_tokens, "peak GB", "gradient difference"]
    title = f"Training, {Path(arguments.model).name}, batch {arguments.batch}, loss on {arguments.loss_on}"
    report(title, header, table(results), {"job": job, "results": results}, arguments.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]))
    else:
        main()
