"""Facts for a report from run.json: the decisions made for a run, and the resources that training used."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.recipe.inputs import NLI_INPUTS
from toolkit.recipe.schema import Recipe
from toolkit.reporting.formats import DEV_METRIC_NAMES, decimal, duration, percent, significant, size


@dataclass(frozen=True)
class Fact:
    """A named value, with a reason if it was chosen rather than measured."""

    name: str
    value: str
    reason: str = ""


def decisions(record: dict[str, Any], recipe: Recipe) -> Iterator[Fact]:
    """Yield the decisions recorded in run.json with their reasons: device, precision, batching, optimizer."""
    training = recipe.training
    if "device" in record:
        yield Fact("device", str(record["device"]), "detected on this machine")
    for name in ("precision", "batching"):
        if isinstance(decision := record.get(name), dict):
            yield Fact(name, str(decision.get("name", "")), str(decision.get("reason", "")))
    if verification := (record.get("batching") or {}).get("verification"):
        yield _verification_fact(verification)
    is_tree = (record.get("batching") or {}).get("name") == "prefix_tree"
    # A tree micro-batch is limited by its tokens, a padded one by its rows.
    size_key = "batch_tokens" if is_tree else "micro_batch_size"
    # run.json also has the older key, with a truth value, which is enough for natural language inference.
    is_by_premise = recipe.task.inputs == NLI_INPUTS and record.get("group_by", []) in ([], ["premise"])
    group_key = "group_by_premise" if is_by_premise else "group_by"
    for name in (group_key, size_key, "gradient_checkpointing", "optimizer"):
        if name in record:
            key = "group_by" if name == group_key else name
            is_auto = getattr(training, key, None) == "auto"
            reason = "auto: derived from device, model and rows" if is_auto else f"the recipe sets training.{key}"
            yield Fact(name.replace("_", " "), _format_value(record[name]), reason)
    if validation := record.get("validation"):
        yield Fact("validation", validation_schedule(record), validation.get("reason", ""))
        rule = (
            f"the best one by {DEV_METRIC_NAMES[validation['metric']]}" if training.keep == "best" else "the last one"
        )
        yield Fact("kept step", rule, f"the recipe sets training.keep: {training.keep}")


def validation_schedule(record: dict[str, Any]) -> str:
    """Return when the dev rows were scored, from the content of run.json."""
    steps: int = record["validation"]["eval_steps"]
    if steps >= record["steps"]:
        return "once, after the last step"
    return f"every {steps:,} steps and after the last one"


def _verification_fact(verification: dict[str, Any]) -> Fact:
    name, tolerance = "prefix tree vs. padded rows", verification.get("tolerance", 0.0)
    if verification.get("error"):
        return Fact(name, "refused", f"the model cannot process prefix trees: {verification['error']}")
    differences = [verification.get("loss_difference"), verification.get("gradient_difference")]
    is_same = all(difference is not None and difference <= tolerance for difference in differences)
    loss, gradient = ("NaN or inf" if difference is None else significant(difference, 2) for difference in differences)
    reason = f"before the first step, loss and gradient differed by {loss} and {gradient}; differences up to "
    return Fact(name, "equal" if is_same else "refused", f"{reason}{tolerance:g} are within rounding error")


def _format_value(value: Any) -> str:
    if isinstance(value, bool):  # before int, because bool is a subclass of int
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def training_facts(record: dict[str, Any]) -> Iterator[Fact]:
    """Yield facts about training: parameters, steps, loss, tokens, time and memory."""
    timings, tokens = record.get("timings", {}), record.get("tokens", {})
    trainable, total = record.get("trainable_parameters"), record.get("total_parameters")
    if trainable and total:
        yield Fact("trainable parameters", f"{trainable:,} of {total:,} ({percent(trainable / total)})")
    if "steps" in record:
        last_step, stop = (record.get("validation") or {}).get("last_step", record["steps"]), ""
        if last_step < record["steps"]:
            stop = f" of {record['steps']:,}, stopped early because the dev rows showed no improvement,"
        yield Fact("optimizer steps", f"{last_step:,}{stop} with batches of {record.get('batch_size', '?')} rows")
    if record.get("final_loss") is not None:
        yield Fact("mean training loss", significant(record["final_loss"]))
    if "median" in tokens:
        yield Fact("tokens per row", f"{tokens['shortest']} to {tokens['longest']}, median {tokens['median']}")
    if "train_seconds" in timings:
        yield Fact("training time", duration(timings["train_seconds"]))
    if validation := record.get("validation"):
        yield from _validation_facts(validation, timings.get("train_seconds"))
    if "peak_memory_bytes" in record:
        yield Fact("peak memory", size(record["peak_memory_bytes"]))


def _validation_facts(validation: dict[str, Any], train_seconds: float | None) -> Iterator[Fact]:
    best, metric = validation["best"], validation["metric"]
    scores = [f"NLL {decimal(best['dev_nll'])}", f"accuracy {percent(best['dev_accuracy'])}"]
    scores.append(f"macro F1 {decimal(best['dev_macro_f1'])}")
    yield Fact("dev rows", f"{validation['rows']:,}")
    yield Fact(f"best step by {DEV_METRIC_NAMES[metric]}", f"{validation['best_step']:,}: {', '.join(scores)}")
    is_best = validation["kept_step"] == validation["best_step"]
    yield Fact("kept step", f"{validation['kept_step']:,}, the {'best' if is_best else 'last'} one")
    share = f", {percent(validation['seconds'] / train_seconds)} of the training time" if train_seconds else ""
    yield Fact("validation time", f"{duration(validation['seconds'])}{share}")
