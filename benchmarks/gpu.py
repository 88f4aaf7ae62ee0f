"""Training steps and scoring on one GPU: prefix trees compared with padding-free Unsloth, padded rows and transformers.

    python benchmarks/gpu.py models/llama-1b --train train.jsonl --out outputs/bench
    python benchmarks/gpu.py embedded:tiny-llama-fr --recipe recipes/quickstart.yaml --smoke --out /tmp/bench # CPU

It writes OUT/gpu.md and OUT/gpu.json and stops after 8 minutes; cases that have not been started by then are listed as
not run. OUT/gpu.jsonl has a line for each finished case, in case the benchmark is killed. All systems train on the same
rows in the same order, from the same adapter weights, without dropout. The full product of all settings would take an
hour, so each setting is varied alone: see `training_cases`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from gpu_systems import NO_CUDNN, PADDED, SCORING, TRANSFORMERS, TREE, TREE_SHUFFLED, UNSLOTH, Case, run_worker
from side_by_side import prepare_job, report, take_turns

GROUPS = {"bfloat16": 4, TRANSFORMERS: 1, "4-bit": 1, "float16": 1, NO_CUDNN: 1}
"""The processes and their shares of the time."""
BATCHES = (16, 64, 256)
TREES = (TREE, TREE_SHUFFLED)


def training_cases(group: str, batches: tuple[int, ...]) -> Iterator[Case]:
    """Yield the cases of one process, those that are needed most first.

    - Systems: all in bfloat16 at every batch size; in float16 and 4-bit all but transformers at the smallest.
    - Gradient checkpointing: off, and on for trees and padding-free Unsloth in bfloat16 (smallest and largest batch
      size) and in 4-bit. transformers needs it at the largest batch size.
    - Trees in bfloat16: with and without cuDNN attention at every batch size; with lengths as they are at the smallest,
      and of at most 1,536 instead of 3,072 nodes at the larger ones.
    """
    small, *larger = batches
    if group == TRANSFORMERS:
        yield from (Case(TRANSFORMERS, batch, checkpointing=batch > 64) for batch in batches)
        return
    if group == NO_CUDNN:
        yield from (*(Case(TREE, batch) for batch in batches), Case(SCORING, 0))
        return
    yield from (Case(system, small) for system in (PADDED, UNSLOTH, TREE, TREE_SHUFFLED))
    if group == "bfloat16":
        yield Case(TREE, small, multiple=1)
        for batch in larger:
            yield from (Case(system, batch) for system in (UNSLOTH, TREE, TREE_SHUFFLED))
            yield Case(TREE, batch, nodes=1536)
        yield from (Case(SCORING, 0), Case(SCORING, 0, multiple=1))
    if group in ("bfloat16", "4-bit"):
        checked = (small, *larger[1:]) if group == "bfloat16" else (small,)
        yield from (Case(system, batch, checkpointing=True) for batch in checked for system in (UNSLOTH, TREE))


def training_rows(results: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield one table row per case."""
    unsloth = {key(result): result for result in results if result["system"] == UNSLOTH and result["seconds"]}
    for result in results:
        settings = [
            result["precision"],
            str(result["batch"] or "-"),
            result["system"],
            "yes" if result["checkpointing"] else "no",
            f"{result['multiple']}" if result["system"] in (*TREES, SCORING) else "-",
            f"{result['nodes']:,}" if result["system"] in TREES else "-",
        ]
        if result["error"]:
            yield [*settings, result["error"], *["-"] * 4]
            continue
        seconds, peer = median(result["seconds"]), unsloth.get(key(result))
        rate = f"{result['rows'] / seconds:,.0f} rows/s" if result["system"] == SCORING else f"{1000 * seconds:,.0f} ms"
        difference = result["gradient_difference"]
        yield [
            *settings,
            rate,
            f"{median(peer['seconds']) / seconds:.2f}x" if peer and result["system"] != SCORING else "-",
            f"{sum(result['tokens']) / len(result['tokens']):,.0f}" if result["tokens"] else "-",
            f"{result['peak_bytes'] / 1e9:.2f}",
            "-" if difference is None else f"{difference:.1e}",
        ]


def key(result: dict[str, Any]) -> tuple[Any, ...]:
    """Return the settings that a case shares with the case of padding-free Unsloth that it is compared with."""
    precision = "bfloat16" if result["precision"] in (TRANSFORMERS, NO_CUDNN) else result["precision"]
    return precision, result["batch"], result["checkpointing"]


def main() -> None:
    """Run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or embedded:tiny-llama-fr")
    parser.add_argument("--recipe", default="recipes/nli_fr.yaml", help="recipe with the task and the adapter")
    parser.add_argument("--train", help="file with the rows (default: data.train of the recipe)")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS), help="processes to run")
    parser.add_argument(
        "--warm-up", type=int, default=20, help="steps before the timed ones at the smallest batch size"
    )
    parser.add_argument("--steps", type=int, default=10, help="timed steps at the smallest batch size")
    parser.add_argument("--seconds", type=int, default=450, help="start no case after this time")
    parser.add_argument("--smoke", action="store_true", help="one step of small batches in float32, for a CPU")
    parser.add_argument("--out", type=Path, required=True, help="write OUT/gpu.md and OUT/gpu.json")
    arguments = parser.parse_args()
    started = time.time()
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "gpu.jsonl"
    log.unlink(missing_ok=True)
    batches, groups = BATCHES, arguments.groups
    if arguments.smoke:
        batches, arguments.warm_up, arguments.steps = (4,), 0, 1
        groups = [group for group in groups if group in ("bfloat16", TRANSFORMERS)]
    job, prepared = prepare_job(__file__, arguments, ("train", "warm_up", "steps", "smoke"))
    shares = [sum(GROUPS[group] for group in groups[: number + 1]) for number in range(len(groups))]
    ends = [started + arguments.seconds * share / shares[-1] for share in shares]
    job |= {
        "log": str(log.absolute()),
        "deadlines": dict(zip(groups, ends, strict=True)),
        "smallest": batches[0],
        "lora": prepared["lora"],
        "rows": prepared["rows"],
    }
    job["cases"] = {group: [vars(case) for case in training_cases(group, batches)] for group in groups}
    results = take_turns(__file__, job, groups, 1)
    cases = [case for rounds in results.values() for case in rounds[0]["cases"]]
    header = ["precision", "batch", "system", "checkpointing", "length multiple", "largest tree"]
    header += ["median", "vs. padding-free Unsloth", "tokens read", "peak GB", "gradient difference"]
    device = next(iter(results.values()))[0]["device"]
    title = f"One GPU, {Path(arguments.model).name}, {device}"
    report(title, header, list(training_rows(cases)), {"device": device, "results": cases}, arguments.out / "gpu")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        run_worker(Path(sys.argv[2]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    else:
        main()
