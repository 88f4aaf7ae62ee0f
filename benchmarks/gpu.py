"""Training steps and scoring on one GPU: prefix trees compared with padding-free Unsloth, transformers and vLLM.

    python benchmarks/gpu.py models/llama-1b --train train.jsonl --score train.jsonl test.jsonl --out outputs/bench/gpu
    python benchmarks/gpu.py embedded:tiny-llama-fr --recipe recipes/quickstart.yaml --smoke --out /tmp/bench # CPU

It stops after 8 minutes; cases that have not been started by then are listed as not run. Until then, DIR/gpu.jsonl has
a line for each finished case, in case the benchmark is killed. All systems train on the same rows in the same order,
from the same adapter weights, without dropout. The full product of all settings would take an hour, so each setting is
varied alone: see `select_cases`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from gpu_cases import BATCHES, CUDNN, GROUPS, NO_RESULT, SCORING, TRANSFORMERS, UNSLOTH, VLLM, Case, select_cases
from gpu_scoring import has_vllm
from gpu_systems import run_worker
from side_by_side import Table, add_out_flag, prepare_job, report, take_turns

_DEFAULT = Case("")
_GRACE_S = 45


def table(results: list[dict[str, Any]]) -> Table:
    """Return one table row per training case."""
    unsloth = {key(result): result for result in results if result["system"] == UNSLOTH and result["seconds"]}
    header = ["precision", "rows", "system", "checkpointing", "ms per step", "speed relative to padding-free Unsloth"]
    rows = [[*header, "tokens read", "peak GB", "gradient difference"]]
    for result in results:
        if result["system"] in SCORING:
            continue
        settings = [result["precision"], str(result["batch"]), describe(result)]
        settings.append("yes" if result["checkpointing"] else "no")
        if result["error"]:
            rows.append([*settings, result["error"], *["-"] * 4])
            continue
        seconds, peer, difference = median(result["seconds"]), unsloth.get(key(result)), result["gradient_difference"]
        rows.append(
            [
                *settings,
                f"{1000 * seconds:,.0f}",
                f"{median(peer['seconds']) / seconds:.2f}x" if peer else "-",
                f"{sum(result['tokens']) / len(result['tokens']):,.0f}",
                f"{result['peak_bytes'] / 1e9:.2f}",
                "-" if difference is None else f"{difference:.1e}",
            ]
        )
    return rows


def scoring_table(results: list[dict[str, Any]]) -> Table:
    """Return one table row per scoring case."""
    return [["system", "order", "rows", "rows per second", "peak GB"]] + [
        [
            VLLM if result["precision"] == VLLM else f"ours, {result['precision']}",
            describe(result).removeprefix("scoring, "),
            *(
                [result["error"], "-", "-"]
                if result["error"]
                else [
                    f"{result['rows']:,}",
                    f"{result['rows'] / result['seconds'][0]:,.0f}",
                    "-" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 1e9:.2f}",
                ]
            ),
        ]
        for result in results
        if result["system"] in SCORING
    ]


def describe(result: dict[str, Any]) -> str:
    """Return the system of a case with the settings that differ from the default."""
    return ", ".join(
        [result["system"]]
        + ["lengths as they are"] * (result["multiple"] == 1)
        + [f"at most {result['nodes']:,} nodes"] * (result["nodes"] != _DEFAULT.nodes)
        + [f"{result['attention']} attention"] * (result["attention"] != _DEFAULT.attention)
    )


def key(result: dict[str, Any]) -> tuple[Any, ...]:
    """Return the settings that a case shares with the case of padding-free Unsloth that it is compared with."""
    precision = "bfloat16" if result["precision"] in (TRANSFORMERS, CUDNN) else result["precision"]
    return precision, result["batch"], result["checkpointing"]


def list_cases(job: dict[str, Any], group: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a process's cases. If the process failed, its finished cases are read from the log."""
    if "cases" in result:
        return result["cases"]
    log = Path(job["log"])
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    finished = [case for case in map(json.loads, lines) if case["precision"] == group]
    unfinished = [case for case in job["cases"][group] if not any(case.items() <= done.items() for done in finished)]
    return finished + [{**case, "precision": group, **NO_RESULT, "error": result["error"]} for case in unfinished]


def main() -> None:
    """Run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or embedded:tiny-llama-fr")
    parser.add_argument("--recipe", default="recipes/nli_fr.yaml", help="recipe with the task and the adapter")
    parser.add_argument("--train", help="file with the rows (default: data.train of the recipe)")
    parser.add_argument("--score", nargs="+", metavar="FILE", help="files with the rows to score (default: --train)")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS), help="processes to run")
    parser.add_argument(
        "--warm-up", type=int, default=20, help="steps before the timed ones at the smallest batch size"
    )
    parser.add_argument("--steps", type=int, default=10, help="timed steps at the smallest batch size")
    parser.add_argument("--seconds", type=int, default=450, help="start no case after this time")
    parser.add_argument("--smoke", action="store_true", help="one step of small batches in float32, for a CPU")
    add_out_flag(parser)
    arguments = parser.parse_args()
    started = time.time()
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "gpu.jsonl"
    log.unlink(missing_ok=True)
    batches, groups = BATCHES, arguments.groups
    if arguments.smoke:
        batches, arguments.warm_up, arguments.steps = (4,), 0, 1
        groups = [group for group in groups if group in ("bfloat16", TRANSFORMERS, VLLM)]
    job, prepared = prepare_job(__file__, arguments, ("train", "score", "warm_up", "steps", "smoke"))
    weights = [GROUPS[group] * (group != VLLM or has_vllm()) for group in groups]
    ends = [
        started + arguments.seconds * sum(weights[: number + 1]) / (sum(weights) or 1) for number in range(len(groups))
    ]
    job |= {
        "log": str(log.absolute()),
        "deadlines": dict(zip(groups, ends, strict=True)),
        "smallest": batches[0],
        **{name: prepared[name] for name in ("lora", "rows", "prompts", "labels")},
    }
    job["cases"] = {group: [vars(case) for case in select_cases(group, batches)] for group in groups}
    # After its deadline, a process starts no case but gets some time to finish the current one.
    results = take_turns(__file__, job, groups, 1, {group: end + _GRACE_S for group, end in job["deadlines"].items()})
    cases = [case for group, (result,) in results.items() for case in list_cases(job, group, result)]
    device = next((result["device"] for (result,) in results.values() if "device" in result), "unknown")
    log.unlink(missing_ok=True)
    title = f"One GPU, {Path(arguments.model).name}, {device}"
    report(title, cases, arguments.out, table, scoring_table, device=device)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        run_worker(Path(sys.argv[2]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    else:
        main()
