"""Rows per second of constrained classification: this toolkit, generate, lm-evaluation-harness and outlines.

python benchmarks/scoring.py models/llama-1b --eval test.jsonl --out outputs/bench/scoring-1b

All systems get the same model in float32 and the same prompts. Slow systems score only the first rows, so the
benchmark compares rates.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from side_by_side import Table, create_parser, median_seconds, peak_gb, prepare_job, report, take_turns, write_result

BATCH = 16
OURS = "ours"
HARNESS = "lm-evaluation-harness"
FREE = "generate, one row, free"
Predict = Callable[[], list[str]]


def prepare(job: dict[str, Any], file: Path) -> None:
    """Write prompts and labels as token ids, and the prompts as text for systems that do not accept ids."""
    import toolkit.models.backend  # noqa: F401 - Unsloth comes before transformers
    from toolkit.data.splits import load_evaluation_rows
    from toolkit.prompts.prompt_tokenizer import PromptTokenizer
    from toolkit.prompts.tokenizer import load_tokenizer
    from toolkit.recipe.loading import load_recipe

    overrides = [f"model.name={job['model']}"] + ([f"data.eval.path={job['eval']}"] if job["eval"] else [])
    recipe = load_recipe(Path(job["recipe"]), [*overrides, f"data.eval.limit={max(job['rows'], job['our_rows'])}"])
    prompt_tokenizer = PromptTokenizer(
        load_tokenizer(Path(job["model_folder"])), recipe.task, recipe.model.max_seq_length
    )
    rows = prompt_tokenizer.encode(load_evaluation_rows(recipe))
    texts = [prompt_tokenizer.decode(row.prompt) for row in rows]
    write_result(
        file,
        seconds=[],
        prompts=[row.prompt for row in rows],
        labels=prompt_tokenizer.label_ids,
        words=prompt_tokenizer.task.verbalizers,
        texts=texts,
    )


def load_plain(job: dict[str, Any]) -> tuple[Any, Any]:
    """Load the model and its tokenizer with transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Padding on the left, so that generation continues directly after each prompt of a batch.
    tokenizer = AutoTokenizer.from_pretrained(job["model_folder"], padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(job["model_folder"], dtype=torch.float32).eval(), tokenizer


def open_generate(job: dict[str, Any], *, batch: int) -> Predict:
    """Generate greedily with `prefix_allowed_tokens_fn`, which allows only label tokens."""
    import torch

    model, tokenizer = load_plain(job)
    sequences = {label: list(ids) for label, ids in job["labels"].items()}
    max_length = max(map(len, sequences.values()))
    end_tokens = sorted({ids[-1] for ids in sequences.values()})

    def predict() -> list[str]:
        return [
            label
            for start in range(0, len(job["prompts"]), batch)
            for label in generate_labels(job["prompts"][start:][:batch])
        ]

    def generate_labels(prompts: list[list[int]]) -> Iterator[str]:
        inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        prompt_length = inputs["input_ids"].shape[1]

        def allowed(_: int, ids: Any) -> list[int]:
            written = ids[prompt_length:].tolist()
            count = len(written)
            # A row that has finished its label only gets padding, but transformers requires at least one allowed token.
            return (
                sorted({s[count] for s in sequences.values() if s[:count] == written and len(s) > count}) or end_tokens
            )

        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=max_length,
                eos_token_id=end_tokens,
                pad_token_id=tokenizer.pad_token_id,
                prefix_allowed_tokens_fn=allowed,
            )
        for row in output[:, prompt_length:].tolist():
            yield next(label for label, ids in sequences.items() if row[: len(ids)] == ids)

    return predict


def open_free(job: dict[str, Any]) -> Predict:
    """Generate ten tokens per row without a constraint, as the reference study did, to measure only the speed."""
    import torch

    model, tokenizer = load_plain(job)

    def predict() -> list[str]:
        with torch.inference_mode():
            for prompt in job["prompts"]:
                ids = torch.tensor([prompt])
                mask = torch.ones_like(ids)
                pad = tokenizer.pad_token_id
                model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=10, pad_token_id=pad)
        return []

    return predict


def open_harness(job: dict[str, Any]) -> Predict:
    """Compute the log-likelihood of every label after every prompt with lm-evaluation-harness, on our token ids."""
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = load_plain(job)
    engine = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, max_length=512)
    requests = [
        ((f"row {row}", label), list(prompt), list(ids))
        for row, prompt in enumerate(job["prompts"])
        for label, ids in job["labels"].items()
    ]

    def predict() -> list[str]:
        scores = [score for score, _ in engine._loglikelihood_tokens(requests, disable_tqdm=True)]
        labels = list(job["labels"])
        return [
            labels[max(range(len(labels)), key=scores[i : i + len(labels)].__getitem__)]
            for i in range(0, len(scores), len(labels))
        ]

    return predict


def open_outlines(job: dict[str, Any]) -> Predict:
    """Generate with outlines, constrained to a choice of the verbalizers."""
    import outlines as library
    from outlines.types import Choice

    model, tokenizer = load_plain(job)
    label_of = {word: label for label, word in job["words"].items()}
    choice = library.Generator(library.from_transformers(model, tokenizer), Choice(list(label_of)))
    begin = tokenizer.bos_token or ""
    prompts = [text.removeprefix(begin) for text in job["texts"]]  # its tokenizer adds the token

    def predict() -> list[str]:
        words: list[str] = []
        for start in range(0, len(prompts), BATCH):
            words += choice.batch(prompts[start : start + BATCH], max_new_tokens=8, do_sample=False)
        return [label_of.get(word, word) for word in words]

    return predict


def open_toolkit(job: dict[str, Any]) -> Predict:
    """Score with the scorer that scripts/eval_generate.py uses."""
    from toolkit.inference.label_trie import LabelTrie
    from toolkit.inference.loading import load_torch_model, make_torch_scorer
    from toolkit.recipe.loading import load_recipe
    from toolkit.runs.model_ref import ModelRef
    from toolkit.runs.run_folder import RunFolder
    from toolkit.runs.trained_run import TrainedRun

    overrides = [f"model.name={job['model']}", "model.dtype=float32", "model.load_in_4bit=false"]
    recipe = load_recipe(Path(job["recipe"]), overrides)
    trie = LabelTrie(job["labels"])
    recipe_text = Path(job["recipe"]).read_text(encoding="utf-8")
    run = TrainedRun(RunFolder(Path(job["folder"])), recipe_text, saved_recipe=recipe, recipe=recipe)
    scorer = make_torch_scorer(load_torch_model(run, ModelRef("base")), recipe, trie)

    def predict() -> list[str]:
        scores = scorer.score([tuple(prompt) for prompt in job["prompts"]])
        most_likely = [trie.labels[i] for i in trie.label_log_probs(scores).argmax(axis=1)]
        job["likeliest"] = most_likely  # the most likely label sequence, which the harness chooses
        return trie.greedy(scores)

    return predict


SYSTEMS: dict[str, tuple[Callable[[dict[str, Any]], Predict], str]] = {
    FREE: (open_free, "slow_rows"),
    "generate, one row": (lambda job: open_generate(job, batch=1), "slow_rows"),
    "generate, batched": (lambda job: open_generate(job, batch=BATCH), "rows"),
    HARNESS: (open_harness, "slow_rows"),
    "outlines": (open_outlines, "slow_rows"),
    OURS: (open_toolkit, "our_rows"),
}
"""The function that opens each system, and the flag with its number of rows."""


def run_worker(file: Path) -> None:
    """Run one system for one round."""
    job = json.loads(file.read_text(encoding="utf-8"))
    if job["system"] == "prepare":
        return prepare(job, file)
    open_system, count_flag = SYSTEMS[job["system"]]
    count = min(job[count_flag], len(job["prompts"]))
    job["prompts"], job["texts"] = job["prompts"][:count], job["texts"][:count]
    predict = open_system(job)
    started = time.perf_counter()
    predictions = predict()
    seconds = round((time.perf_counter() - started) / count, 5)
    write_result(file, seconds=[seconds], rows=count, predictions=predictions, likeliest=job.get("likeliest"))


def main() -> None:
    """Run the benchmark and report the results."""
    parser = create_parser(__doc__ or "", list(SYSTEMS))
    parser.add_argument("--eval", help="file with the rows (default: data.eval of the recipe)")
    parser.add_argument("--rows", type=int, default=48, help="rows for batched generate")
    parser.add_argument("--slow-rows", type=int, default=12, help="rows for systems that do not batch")
    parser.add_argument(
        "--our-rows", type=int, default=300, help="rows for this toolkit, enough to amortize its startup"
    )
    arguments = parser.parse_args()
    job, prepared = prepare_job(__file__, arguments, ("eval", "rows", "slow_rows", "our_rows"))
    inputs = {key: prepared[key] for key in ("prompts", "labels", "words", "texts")}
    results = take_turns(__file__, job | inputs, arguments.systems, arguments.rounds)
    title = f"Scoring, {Path(arguments.model).name}"
    report(title, summarize(results), arguments.out, table)


def summarize(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one entry per system, with the rate of its median round.

    `our_speedup` is our rate relative to that of the system. `equal_predictions` is the number of rows on which the
    system and ours agree. Both are None for ours, and the latter also if the system returns no labels.
    """
    seconds = {system: median_seconds(rounds) for system, rounds in results.items()}
    ours = results.get(OURS)
    entries = []
    for system, rounds in results.items():
        predictions = rounds[0]["predictions"]
        is_compared = ours is not None and system != OURS
        # The harness chooses the most likely label sequence and the others decode greedily. Our scorer returns both.
        expected = ours[0]["likeliest" if system == HARNESS else "predictions"] if ours else []
        agreement = sum(a == b for a, b in zip(predictions, expected, strict=False))
        entries.append(
            {
                "name": system,
                "rows": rounds[0]["rows"],
                "rows_per_second": round(1 / seconds[system], 4),
                "our_speedup": round(seconds[system] / seconds[OURS], 4) if is_compared else None,
                "peak_gb": round(peak_gb(rounds), 3),
                "equal_predictions": agreement if is_compared and predictions else None,
                "seconds_per_row": [second for result in rounds for second in result["seconds"]],
            }
        )
    return entries


def table(systems: list[dict[str, Any]]) -> Table:
    """Return one table row per system."""
    return [["system", "rows", "rows per second", "our speedup", "peak GB", "predictions equal to ours"]] + [
        [
            system["name"],
            f"{system['rows']:,}",
            f"{system['rows_per_second']:.3g}",
            "" if system["our_speedup"] is None else f"{system['our_speedup']:.2f}x",
            f"{system['peak_gb']:.2f}",
            "" if system["equal_predictions"] is None else f"{system['equal_predictions']} of {system['rows']}",
        ]
        for system in systems
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        run_worker(Path(sys.argv[2]))
    else:
        main()
