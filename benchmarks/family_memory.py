"""Peak memory of decoder families and encoders as preflight predicts it, compared with complete runs of two steps.

    python benchmarks/family_memory.py [MODEL ...] [--folder FOLDER ...] --out /tmp/family-memory

Each measurement is a forked process, which starts with the imports of this one. Models have random weights in the
shapes below, with the widths of published models but fewer layers and smaller vocabularies. For a FOLDER, real weights
are measured in the same way.
"""

import argparse
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memory import ALL_LINEAR, DATA, LONG, entries, table
from side_by_side import add_out_flag, report

DECODERS: dict[str, dict[str, Any]] = {
    "qwen2.5": {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
                "num_key_value_heads": 2, "vocab_size": 76_000},
    "qwen3": {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
              "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 76_000},
    "smollm3": {"model_type": "smollm3", "hidden_size": 1024, "intermediate_size": 5504, "num_attention_heads": 8,
                "num_key_value_heads": 2, "vocab_size": 64_000},
    "mistral": {"model_type": "mistral", "hidden_size": 1024, "intermediate_size": 3584, "num_attention_heads": 8,
                "num_key_value_heads": 2, "head_dim": 128, "sliding_window": 4096, "vocab_size": 32_768},
    "gemma 3": {"model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_attention_heads": 4,
                "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 128, "vocab_size": 131_072},
}  # fmt: skip
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
ENCODERS: dict[str, tuple[dict[str, Any], str]] = {
    "bert": ({"model_type": "bert", **_BASE}, "query, value"),
    "roberta": ({"model_type": "roberta", **_BASE, "max_position_embeddings": 514}, "query, value"),
    "camembert": ({"model_type": "camembert", **_BASE, "max_position_embeddings": 514}, "query, value, dense"),
    "xlm-r": (
        {"model_type": "xlm-roberta", **_BASE, "max_position_embeddings": 514, "vocab_size": 125_000},
        "query, value",
    ),
    "deberta v2": (
        {"model_type": "deberta-v2", **_BASE, "vocab_size": 64_000, "relative_attention": True, "position_buckets": 256,
         "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0,
         "position_biased_input": False, "max_relative_positions": -1},
        "query_proj, value_proj",
    ),
    "distilbert": ({"model_type": "distilbert", "dim": 768, "hidden_dim": 3072, "n_heads": 12}, "q_lin, v_lin"),
    "electra": ({"model_type": "electra", **_BASE, "embedding_size": 768}, "query, value"),
    "modernbert": (
        {"model_type": "modernbert", **_BASE, "intermediate_size": 1152, "vocab_size": 50_368, "pad_token_id": 0},
        "Wqkv",
    ),
}  # fmt: skip
LAYERS = 8
LIMIT = 64
DECODER_CASES = [
    ["training.batching=padded", "training.batch_size=16", ALL_LINEAR, "lora.dropout=0", *LONG],
    ["training.batching=prefix_tree", "training.batch_size=48", ALL_LINEAR, *LONG],
]
REAL_CASES = [
    ["training.batching=padded", "training.batch_size=16", ALL_LINEAR],
    ["training.batching=prefix_tree", "training.batch_size=16", ALL_LINEAR],
]


def encoder_cases(targets: str | None) -> list[list[str]]:
    """Return the cases of an encoder: an adapter on these layers, and all weights."""
    adapter = [f"lora.target_modules=[{targets}]"] if targets else []
    return [["training.batch_size=64", *adapter], ["training.batch_size=64", "lora=null"]]


def run_forked(function: Callable[[], Any]) -> int:
    """Run a function in a forked process and return its peak resident memory in bytes."""
    child = os.fork()
    if not child:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit("the run failed")
    return usage.ru_maxrss * 1024  # Linux counts in KiB, getrusage(2)


def measure(model: Path, overrides: list[str], folder: Path, recipe: str) -> dict[str, dict[str, float]]:
    """Train for two steps, evaluate, and return the predicted and the measured peak of both, in bytes."""
    import toolkit

    assignments = [f"model.name={model}", *DATA, *overrides]
    measured = {
        "training": run_forked(lambda: toolkit.train(recipe, assignments, output_dir=folder)),
        "scoring": run_forked(
            lambda: toolkit.open_run(folder).evaluate(limit=LIMIT, overrides=["evaluation.baselines=false"])
        ),
    }
    estimate = json.loads((folder / "run.json").read_text(encoding="utf-8"))["outlook"]
    return {
        phase: {"predicted": estimate[phase]["peak"], "measured": peak, "ratio": estimate[phase]["peak"] / peak}
        for phase, peak in measured.items()
    }


def write_model(config_fields: dict[str, Any], folder: Path, *, is_encoder: bool) -> Path:
    """Create a model folder with random weights."""
    from toolkit.embedded import MODEL_FOLDER
    from toolkit.models.backend import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
    from toolkit.prompts.tokenizer import load_tokenizer

    fields = {"num_hidden_layers": LAYERS, **config_fields}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    auto_class = AutoModelForSequenceClassification if is_encoder else AutoModelForCausalLM
    model = auto_class.from_config(config)
    model.float().save_pretrained(folder) if is_encoder else model.bfloat16().save_pretrained(folder)
    (_pair_tokenizer() if is_encoder else load_tokenizer(MODEL_FOLDER)).save_pretrained(folder)
    return folder


def _pair_tokenizer() -> Any:
    """Return a small tokenizer for sentence pairs, trained on the embedded rows."""
    import tokenizers
    from toolkit.embedded import nli_fr
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([row["premise"] for row in nli_fr.load_split("train")], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, model_input_names=["input_ids", "attention_mask"]
    )


def main() -> None:
    """Run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL", nargs="*", help="default: all")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="a model with real weights")
    parser.add_argument("--data", type=Path, help="folder with train.jsonl and test.jsonl (default: embedded rows)")
    add_out_flag(parser)
    arguments = parser.parse_args()
    names = arguments.models or ([] if arguments.folder else [*DECODERS, *ENCODERS])
    data = [] if arguments.data is None else [
        f"data.train={{path: {arguments.data}/train.jsonl, limit: 512}}",
        f"data.eval={{path: {arguments.data}/test.jsonl, limit: 64}}",
    ]  # fmt: skip
    import toolkit.models.backend
    import toolkit.training.training_run  # noqa: F401

    results: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch:
        number = itertools.count()
        for name in [*names, *arguments.folder]:
            if isinstance(name, Path):
                architecture = json.loads((name / "config.json").read_text(encoding="utf-8"))["architectures"][0]
                is_encoder = not architecture.endswith("ForCausalLM")
                model, cases = name, encoder_cases(None) if is_encoder else REAL_CASES
            else:
                is_encoder = name in ENCODERS
                fields = ENCODERS[name][0] if is_encoder else DECODERS[name]
                model = Path(scratch, name)
                run_forked(partial(write_model, fields, model, is_encoder=is_encoder))
                cases = encoder_cases(ENCODERS[name][1]) if is_encoder else DECODER_CASES
            recipe = "recipes/nli_fr_camembert.yaml" if is_encoder else "recipes/nli_fr.yaml"
            for overrides in cases:
                case = "long instruction" if LONG[0] in overrides else ""
                shown = [item for item in overrides if item not in LONG and item != ALL_LINEAR]
                case = ", ".join([*shown, *filter(None, ["all linear layers" * (ALL_LINEAR in overrides), case])])
                folder = Path(scratch, f"run-{next(number)}")
                peaks = measure(model, [*data, *overrides], folder, recipe)
                results += entries(f"{getattr(name, 'name', name)}: {case}", peaks)
                ratios = ", ".join(
                    f"{phase} {peak['predicted'] / 1e9:.2f}/{peak['measured'] / 1e9:.2f}={peak['ratio']:.2f}"
                    for phase, peak in peaks.items()
                )
                print(f"{ratios}  {name}: {case}", file=sys.stderr, flush=True)
    report("Peak memory of model families, predicted and measured", results, arguments.out, table)


if __name__ == "__main__":
    main()
