"""Peak memory that the pre-flight predicts beside the peak that two training steps have, each case in its own process.

    python benchmarks/memory.py [FOLDER ...] --out /tmp/memory

Random weights of the shapes below are made on the spot; a FOLDER with another model is measured in each of its cases.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from side_by_side import report

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
}  # fmt: skip
FOLDER_CASES = [
    ["training.batching=padded", "training.batch_size=8", "lora.dropout=0"],
    ["training.batching=prefix_tree", "training.batch_size=24", ALL_LINEAR],
    ["training.batching=padded", "training.batch_size=16", "training.gradient_checkpointing=true", "lora.r=32"],
]


def write_model(shape: tuple[int, ...], folder: Path) -> Path:
    """A Llama of this shape with random weights and the embedded tokenizer."""
    layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary = shape
    from toolkit.embedded.tiny_llama import MODEL_FOLDER
    from toolkit.model.backend import AutoConfig, AutoModelForCausalLM
    from toolkit.prompts import load_tokenizer

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


def measure(model: Path, overrides: list[str], folder: Path) -> dict[str, Any]:
    """Train two steps and read what was predicted and what was seen."""
    settings = [f"model.name={model}", *DATA, *overrides]
    flags = [argument for one in settings for argument in ("--set", one)]
    command = [sys.executable, "scripts/sft.py", "recipes/nli_fr.yaml", *flags, "--output-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    predicted, seen = record["outlook"]["training"], record["peak_memory_bytes"]
    return {"predicted": predicted, "measured": seen, "ratio": predicted["peak"] / seen, "device": record["device"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="*")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with TemporaryDirectory() as scratch:
        cases = [(name, write_model(SHAPES[name], Path(scratch, name)), CASES[name]) for name in arguments.shapes]
        cases += [(folder.name, folder, FOLDER_CASES) for folder in arguments.folders]
        number = itertools.count()
        for name, model, variations in cases:
            for overrides in variations:
                shown = ", ".join("long instruction" if one == LONG[0] else one for one in overrides)
                shown = shown.replace(ALL_LINEAR, "all linear layers").replace("training.", "").replace("model.", "")
                found = results[f"{name}: {shown}"] = measure(model, overrides, Path(scratch, f"run-{next(number)}"))
                print(f"{found['ratio']:.2f}  {name}: {shown}", file=sys.stderr, flush=True)
    header = ["case", "predicted GB", "measured GB", "ratio"]
    rows = [
        [name, f"{one['predicted']['peak'] / 1e9:.2f}", f"{one['measured'] / 1e9:.2f}", f"{one['ratio']:.2f}"]
        for name, one in results.items()
    ]
    report("Peak memory, predicted and measured", header, rows, {"results": results}, arguments.out)


if __name__ == "__main__":
    main()
