"""Every decoder family on a GPU: a few steps in trees and a scored evaluation, on small models with random weights.

    python benchmarks/gpu_families.py --train xnli_fr/train.jsonl --eval xnli_fr/test.jsonl --tokenizer FOLDER --out DIR

The question is whether Unsloth's forward of each family computes trees exactly, in each number format. Each case is a
process of its own, because Unsloth patches the classes of the families that it loads.
"""

import argparse
import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from side_by_side import Table, add_out_flag, report

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIZES: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048,
}  # fmt: skip
WINDOW = 64  # shorter than every row, so that ignoring the window changes the results
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Mistral": ("mistral", {}),
    "Mistral, sliding window": ("mistral", {"sliding_window": WINDOW}),
    "Qwen2.5": ("qwen2.5", {}),
    "Qwen3": ("qwen3", {}),
    "SmolLM3": ("smollm3", {"num_hidden_layers": 8}),
    "Gemma 3, sliding window": (
        "gemma3", {"num_key_value_heads": 1, "query_pre_attn_scalar": 64, "sliding_window": WINDOW},
    ),
}  # fmt: skip
"""For each case, a shape of `tests.models.stand_ins` and fields of its configuration in addition to `SIZES`."""
FORMATS: dict[str, dict[str, Any]] = {
    "bfloat16": {"model.dtype": "bfloat16"},
    "float16": {"model.dtype": "float16"},
    "float32": {"model.dtype": "float32"},
    "4-bit": {"model.load_in_4bit": True},
}
CONCURRENT_CASES = 8


class _Messages(logging.Handler):
    """A log handler that keeps warnings, among them the reason why a tree is rejected."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one model, and return what the run recorded."""
    import toolkit
    from tests.models.stand_ins import write_stand_in

    out, messages = Path(case["out"]), _Messages()
    logging.getLogger("toolkit").addHandler(messages)
    shape, fields = FAMILIES[case["family"]]
    folder = write_stand_in(
        shape, out / "model", tokenizer_from=Path(case["tokenizer"]), std=0.05, **{**SIZES, **fields}
    )
    overrides = {
        "model.name": str(folder), "lora.dropout": 0.0, "training.max_steps": 6, "evaluation.baselines": False,
        "data.train": {"path": case["train"], "limit": 256}, "data.eval": {"path": case["eval"], "limit": 100},
        **FORMATS[case["format"]],
    }  # fmt: skip
    run = toolkit.train(ROOT / "recipes" / "nli_fr.yaml", overrides=overrides, output_dir=out / "run", overwrite=True)
    record = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    evaluation = run.evaluate()
    return {
        "batching": record["batching"],
        "peak_bytes": record["peak_memory_bytes"],
        "predicted_bytes": record["outlook"]["training"]["total"] - record["outlook"]["training"]["runtime"],
        "final_loss": record["final_loss"],
        "rows": evaluation.n,
        "warnings": messages.texts,
    }


def run_in_process(case: dict[str, Any]) -> dict[str, Any]:
    """Run a case in a child process and return its result, or the last line of its error."""
    Path(case["out"]).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--case", json.dumps(case), "--out", case["out"]]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    Path(case["out"], "log.txt").write_text(child.stdout + child.stderr, encoding="utf-8")
    lines = [line for line in (child.stdout if child.returncode == 0 else child.stderr).splitlines() if line.strip()]
    result = json.loads(lines[-1]) if child.returncode == 0 else {"error": lines[-1] if lines else "none"}
    result = {"family": case["family"], "format": case["format"], **result}
    print(*table_row(result), sep=", ", file=sys.stderr, flush=True)
    Path(case["out"], "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def table(results: list[dict[str, Any]]) -> Table:
    """Return one table row per case."""
    header = ["family", "format", "batching", "gradient difference", "memory, predicted / measured", "peak GB"]
    return [[*header, "warnings"], *map(table_row, results)]


def table_row(result: dict[str, Any]) -> list[str]:
    """Return the table row of a case."""
    if "error" in result:
        return [result["family"], result["format"], f"failed: {result['error']}", "-", "-", "-", "-"]
    difference = (result["batching"].get("verification") or {}).get("gradient_difference")
    return [
        result["family"],
        result["format"],
        result["batching"]["name"],
        "-" if difference is None else f"{difference:.1e}",
        f"{result['predicted_bytes'] / result['peak_bytes']:.2f}",
        f"{result['peak_bytes'] / 1e9:.2f}",
        str(len(result["warnings"])),
    ]


def main() -> None:
    """Run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--train", "--eval", "--tokenizer"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    add_out_flag(parser)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run_case(arguments.case)))
        return
    files = {name: str(getattr(arguments, name)) for name in ("train", "eval", "tokenizer")}
    cases = [
        {"family": family, "format": form, "out": str(arguments.out / f"{index}-{form}"), **files}
        for form in arguments.formats
        for index, family in enumerate(arguments.families)
    ]
    with ThreadPoolExecutor(CONCURRENT_CASES) as threads:
        results = list(threads.map(run_in_process, cases))
    report("Model families on a GPU", results, arguments.out, table)


if __name__ == "__main__":
    main()
