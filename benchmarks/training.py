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

from side_by_side import create_parser, median_seconds, peak_gb, prepare_job, report, take_turns
from training_systems import OURS, PEERS, run_worker


def table(results: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Return one table row per system."""
    peers = [system for system in PEERS if system in results]
    rows = []
    for system, rounds in results.items():
        seconds, tokens = median_seconds(rounds), mean_tokens(rounds)
        ratios = [f"{median_seconds(results[peer]) / seconds:.2f}x" for peer in peers]
        predicted_ratios = [f"{mean_tokens(results[peer]) / tokens:.2f}x" for peer in peers]
        differences = ", ".join(f"{value:.1e}" for value in rounds[0]["gradient_difference"].values()) or "-"
        # A grouped run trains on n/a (different rows) in its first step, so there is no gradient to compare.
        is_grouped = OURS.get(system, False)
        rows.append(
            [
                system,
                f"{seconds:.3g}",
                *ratios,
                f"{tokens:,.0f}",
                *predicted_ratios,
                f"{peak_gb(rounds):.2f}",
                "n/a (different rows)" if is_grouped else differences,
            ]
        )
    return rows


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
    peers = [peer for peer in PEERS if peer in results]
    ratio_names, predicted_ratio_names = (
        [f"{text} {peer}" for peer in peers] for text in ("vs.", "predicted by tokens, vs.")
    )
    header = [
        "system",
        "s per step",
        *ratio_names,
        "tokens read",
        *predicted_ratio_names,
        "peak GB",
        "gradient difference",
    ]
    title = f"Training, {Path(arguments.model).name}, batch {arguments.batch}, loss on {arguments.loss_on}"
    report(title, header, table(results), {"job": job, "results": results}, arguments.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        run_worker(Path(sys.argv[2]))
    else:
        main()
