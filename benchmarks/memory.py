"""Peak memory as preflight predicts it, compared with that of two training steps and of an evaluation.

    python benchmarks/memory.py [FOLDER ...] --out /tmp/memory

Each measurement is a separate process. The benchmark creates models with random weights in the shapes below. For each
model FOLDER it also measures the cases in FOLDER_CASES.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from side_by_side import Table, add_out_flag, report

# Two steps, because the optimizer allocates its state only at the end of the first one.
DATA = [
    "data.train={path: embedded:nli-fr, split: train, limit: 512}", "data.eval={path: embedded:nli-fr, split: dev}",
    "evaluation.slice_by=[]", "training.max_steps=2", "model.load_in_4bit=false",
]  # fmt: skip
ALL_LINEAR = "lora.target_modules=[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"
LONG = [f"task.system='{'Compare les deux phrases et réponds par un seul mot. ' * 12}'", "model.max_seq_length=768"]
# layers, hidden, intermediate, heads, key-value heads, head size, vocabulary
SHAPES = {
    "wide": (3, 1536, 4096, 12, 4, 128, 32_000),
    "deep": (24, 384, 1024, 6, 6, 64, 50_000),
    "large vocabulary": (4, 768, 2048, 12, 12, 64, 200_000),
    "narrow heads": (8, 640, 2560, 20, 4, 32, 64_000),
    "small": (16, 512, 1408, 8, 2, 64, 100_000),
}
CASES = {
    "wide": [
        ["training.batching=padded", "training.batch_size=12", "lora.r=64", "lora.dropout=0"],
        ["training.batching=prefix_tree", "training.batch_size=48", ALL_LINEAR, *LONG],
    ],
    "deep": [
        ["training.batching=padded", "training.batch_size=32", "training.micro_batch_size=16", "lora.dropout=0.1"],
        ["training.batching=padded", "training.batch_size=32", "training.gradient_checkpointing=true", ALL_LINEAR],
    ],
    "large vocabulary": [
        ["training.batching=padded", "training.batch_size=8", "training.loss_on=full_text"],
        ["training.batching=prefix_tree", "training.batch_size=32", "lora.dropout=0", "lora.r=8"],
    ],
    "narrow heads": [
        ["training.batching=padded", "training.batch_size=24", ALL_LINEAR, "lora.dropout=0", *LONG],
        ["training.batching=prefix_tree", "training.batch_size=96", "training.batch_tokens=900"],
    ],
    "small": [
        ["training.batching=padded", "training.batch_size=20", "lora.dropout=0.2", "lora.r=32"],
        ["training.batching=prefix_tree", "training.batch_size=64", "lora.target_modules=[q_proj, v_proj]", *LONG],
    ],
}  # fmt: skip
FOLDER_CASES = [
    ["training.batching=padded", "training.batch_size=8", "lora.dropout=0"],
    ["training.batching=prefix_tree", "training.batch_size=24", ALL_LINEAR],
    ["training.batching=padded", "training.batch_size=16", "training.gradient_checkpointing=true", "lora.r=32"],
]


def write_model(shape: tuple[int, ...], folder: Path) -> Path:
    """Create a model folder: a Llama of this shape with random weights and the embedded tokenizer."""
    layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary = shape
    from toolkit.embedded import MODEL_FOLDER
    from toolkit.models.backend import AutoConfig, AutoModelForCausalLM
    from toolkit.prompts.tokenizer import load_tokenizer

    config = AutoConfig.from_pretrained(MODEL_FOLDER)
    config.update(
        {
            "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": intermediate,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
            "vocab_size": vocabulary, "max_position_embeddings": 2048,
        }
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)
    load_tokenizer(MODEL_FOLDER).save_pretrained(folder)
    return folder


def run_command(*command: str) -> int:
    """Run a command of the toolkit and return its peak resident memory in bytes."""
    with TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            output.seek(0)
            sys.exit(output.read().decode(errors="replace")[-2000:])
    return usage.ru_maxrss * 1024  # Linux counts in KiB, getrusage(2)


def measure(
    model: Path, overrides: list[str], folder: Path, recipe: str = "recipes/nli_fr.yaml"
) -> dict[str, dict[str, float]]:
    """Train for two steps, evaluate, and return the predicted and the measured peak of both, in bytes."""
    assignments = [f"model.name={model}", *DATA, *overrides]
    flags = [argument for assignment in assignments for argument in ("--set", assignment)]
    measured = {
        "training": run_command("scripts/sft.py", recipe, *flags, "--output-dir", str(folder)),
        "scoring": run_command("scripts/eval_generate.py", str(folder), "--set", "evaluation.baselines=false"),
    }
    estimate = json.loads((folder / "run.json").read_text(encoding="utf-8"))["outlook"]
    return {
        phase: {
            "predicted": estimate[phase]["peak"],
            "measured": peak_bytes,
            "ratio": estimate[phase]["peak"] / peak_bytes,
        }
        for phase, peak_bytes in measured.items()
    }


def main() -> None:
    """Run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="*", help="folders of other models to measure")
    parser.add_argument(
        "--shapes", nargs="*", choices=SHAPES, default=list(SHAPES), help="shapes to measure (default: all)"
    )
    add_out_flag(parser)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch:
        cases = [(name, write_model(SHAPES[name], Path(scratch, name)), CASES[name]) for name in arguments.shapes]
        cases += [(folder.name, folder, FOLDER_CASES) for folder in arguments.folders]
        number = itertools.count()
        for name, model, variations in cases:
            for overrides in variations:
                case = ", ".join("long instruction" if item == LONG[0] else item for item in overrides)
                case = case.replace(ALL_LINEAR, "all linear layers").replace("training.", "").replace("model.", "")
                peaks = measure(model, overrides, Path(scratch, f"run-{next(number)}"))
                results += entries(f"{name}: {case}", peaks)
                ratios = ", ".join(f"{phase} {peak['ratio']:.2f}" for phase, peak in peaks.items())
                print(f"{ratios}  {name}: {case}", file=sys.stderr, flush=True)
    report("Peak memory, predicted and measured", results, arguments.out, table)


def entries(case: str, peaks: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Return one entry per phase of a case."""
    return [
        {
            "case": case,
            "phase": phase,
            "predicted_gb": round(peak["predicted"] / 1e9, 3),
            "measured_gb": round(peak["measured"] / 1e9, 3),
            "ratio": round(peak["ratio"], 4),
        }
        for phase, peak in peaks.items()
    ]


def table(cases: list[dict[str, Any]]) -> Table:
    """Return one table row per case and phase."""
    return [["case", "phase", "predicted GB", "measured GB", "ratio"]] + [
        [
            case["case"],
            case["phase"],
            f"{case['predicted_gb']:.2f}",
            f"{case['measured_gb']:.2f}",
            f"{case['ratio']:.2f}",
        ]
        for case in cases
    ]


if __name__ == "__main__":
    main()
