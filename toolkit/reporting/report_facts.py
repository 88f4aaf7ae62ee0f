"""What was decided for a run, and what training took: facts for a report, from run.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.recipe.schema import Recipe
from toolkit.reporting.formats import duration, percent, significant, size


@dataclass(frozen=True)
class Fact:
    """A name, its value, and why it is that value where someone or something decided."""

    name: str
    value: str
    reason: str = ""


def decisions(record: dict[str, Any], recipe: Recipe) -> Iterator[Fact]:
    """What was chosen for the run and why, as run.json and the recipe tell it."""
    training = recipe.training
    if "device" in record:
        yield Fact("device", str(record["device"]), "the machine's")
    for name in ("precision", "batching"):
        if isinstance(decision := record.get(name), dict):
            yield Fact(name, str(decision.get("name", "")), str(decision.get("reason", "")))
    if verification := (record.get("batching") or {}).get("verification"):
        yield _verification_fact(verification)
    is_tree = (record.get("batching") or {}).get("name") == "prefix_tree"
    size_key = "batch_tokens" if is_tree else "micro_batch_size"
    for name in ("group_by_premise", size_key, "gradient_checkpointing", "optimizer"):
        if name in record:
            is_auto = getattr(training, name, None) == "auto"
            reason = "auto: from device, model and rows" if is_auto else f"the recipe sets training.{name}"
            yield Fact(name.replace("_", " "), _format_value(record[name]), reason)


def _verification_fact(verification: dict[str, Any]) -> Fact:
    name, tolerance = "tree against padded rows", verification.get("tolerance", 0.0)
    if verification.get("error"):
        return Fact(name, "refused", f"a tree cannot be computed: {verification['error']}")
    differences = [verification.get("loss_difference"), verification.get("gradient_difference")]
    is_same = all(difference is not None and difference <= tolerance for difference in differences)
    loss, gradient = ("no number" if difference is None else significant(difference, 2) for difference in differences)
    reason = f"before the first step the loss differed by {loss}, the gradient by {gradient}; rounding explains "
    return Fact(name, "the same" if is_same else "refused", f"{reason}{tolerance:g}")


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def training_facts(record: dict[str, Any]) -> Iterator[Fact]:
    """What training took."""
    timings, tokens = record.get("timings", {}), record.get("tokens", {})
    trainable, total = record.get("trainable_parameters"), record.get("total_parameters")
    if trainable and total:
        yield Fact("parameters trained", f"{trainable:,} of {total:,} ({percent(trainable / total)})")
    if "steps" in record:
        yield Fact("optimiser steps", f"{record['steps']:,} of {record.get('batch_size', '?')} rows")
    if record.get("final_loss") is not None:
        yield Fact("mean training loss", significant(record["final_loss"]))
    if "median" in tokens:
        yield Fact("tokens per row", f"{tokens['shortest']} to {tokens['longest']}, median {tokens['median']}")
    if "train_seconds" in timings:
        yield Fact("training time", duration(timings["train_seconds"]))
    if "peak_memory_bytes" in record:
        yield Fact("peak memory", size(record["peak_memory_bytes"]))
