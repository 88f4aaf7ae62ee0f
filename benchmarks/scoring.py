"""Rows per second of constrained classification: this toolkit beside generate, lm-evaluation-harness and outlines.

python benchmarks/scoring.py models/llama-1b --eval test.jsonl --out outputs/bench/scoring-1b

All get the same model in float32 and the same prompts. Slow systems score the first rows alone; rates are compared.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from side_by_side import finish, parser, peak_gb, prepared, report, take_turns

BATCH = 16
OURS = "ours"
HARNESS = "lm-evaluation-harness"
STUDY = "generate, one row, free"
Predict = Callable[[], list[str]]


def prepare(job: dict[str, Any], file: Path) -> None:
    """Prompts and labels as token ids, and the prompts' text for a system that takes no ids."""
    import toolkit.models.backend  # noqa: F401 - Unsloth comes before transformers
    from toolkit.data.examples import load_examples
    from toolkit.prompts.encoder import PromptEncoder
    from toolkit.prompts.tokenizer import load_tokenizer
    from toolkit.recipe.loading import load_recipe

    overrides = [f"model.name={job['model']}"] + ([f"data.eval.path={job['eval']}"] if job["eval"] else [])
    recipe = load_recipe(Path(job["recipe"]), [*overrides, f"data.eval.limit={max(job['rows'], job['our_rows'])}"])
    encoder = PromptEncoder(load_tokenizer(Path(job["model_folder"])), recipe.task, recipe.model.max_seq_length)
    rows = encoder.encode(load_examples(recipe, recipe.data.eval))
    texts = [encoder.decode(row.prompt) for row in rows]
    finish(
        file,
        seconds=[],
        prompts=[row.prompt for row in rows],
        labels=encoder.label_ids,
        words=encoder.task.verbalizers,
        texts=texts,
    )


def load_plain(job: dict[str, Any]) -> tuple[Any, Any]:
    """The model and its tokenizer as transformers has them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model_folder"], padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(job["model_folder"], dtype=torch.float32).eval(), tokenizer


def generate(job: dict[str, Any], *, batch: int) -> Predict:
    """`generate`, greedy, with `prefix_allowed_tokens_fn` on the labels' trie."""
    import torch

    model, tokenizer = load_plain(job)
    sequences = {label: list(ids) for label, ids in job["labels"].items()}
    longest = max(map(len, sequences.values()))
    ends = sorted({ids[-1] for ids in sequences.values()})

    def predict() -> list[str]:
        return [
            label for start in range(0, len(job["prompts"]), batch) for label in answers(job["prompts"][start:][:batch])
        ]

    def answers(prompts: list[list[int]]) -> Iterator[str]:
        inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        read = inputs["input_ids"].shape[1]

        def allowed(_: int, ids: Any) -> list[int]:
            said = ids[read:].tolist()
            return (
                sorted({s[len(said)] for s in sequences.values() if s[: len(said)] == said and len(s) > len(said)})
                or ends
            )

        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=longest,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
                prefix_allowed_tokens_fn=allowed,
            )
        for row in output[:, read:].tolist():
            yield next(label for label, ids in sequences.items() if row[: len(ids)] == ids)

    return predict


def free(job: dict[str, Any]) -> Predict:
    """One `generate` per row without a constraint, ten new tokens, as the reference study did: for its speed alone."""
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


def harness(job: dict[str, Any]) -> Predict:
    """lm-evaluation-harness: the log-likelihood of every label behind every prompt, on our token ids."""
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


def outlines(job: dict[str, Any]) -> Predict:
    """Outlines: generation held to a choice of the labels' words."""
    import outlines as library
    from outlines.types import Choice

    model, tokenizer = load_plain(job)
    label_of = {word: label for label, word in job["words"].items()}
    choice = library.Generator(library.from_transformers(model, tokenizer), Choice(list(label_of)))
    begin = tokenizer.bos_token or ""
    prompts = [text.removeprefix(begin) for text in job["texts"]]  # it adds the first token itself

    def predict() -> list[str]:
        said: list[str] = []
        for start in range(0, len(prompts), BATCH):
            said += choice.batch(prompts[start : start + BATCH], max_new_tokens=8, do_sample=False)
        return [label_of.get(word, word) for word in said]

    return predict


def ours(job: dict[str, Any]) -> Predict:
    """What scripts/eval_generate.py runs."""
    from toolkit.inference.label_trie import LabelTrie
    from toolkit.inference.loading import load_torch_model, torch_scorer
    from toolkit.recipe.loading import load_recipe
    from toolkit.runs.model_ref import ModelRef
    from toolkit.runs.run_folder import RunFolder
    from toolkit.runs.trained_run import TrainedRun

    overrides = [f"model.name={job['model']}", "model.dtype=float32", "model.load_in_4bit=false"]
    recipe = load_recipe(Path(job["recipe"]), overrides)
    trie = LabelTrie(job["labels"])
    recipe_text = Path(job["recipe"]).read_text(encoding="utf-8")
    run = TrainedRun(RunFolder(Path(job["folder"])), recipe_text, saved_recipe=recipe, recipe=recipe)
    scorer = torch_scorer(load_torch_model(run, ModelRef("base")), recipe, trie)

    def predict() -> list[str]:
        scores = scorer.score([tuple(prompt) for prompt in job["prompts"]])
        likeliest = [trie.labels[i] for i in trie.label_log_probs(scores).argmax(axis=1)]
        job["likeliest"] = likeliest  # what the harness's way of choosing gives
        return trie.greedy(scores)

    return predict


SYSTEMS: dict[str, tuple[Callable[[dict[str, Any]], Predict], str]] = {
    STUDY: (free, "slow_rows"),
    "generate, one row": (lambda job: generate(job, batch=1), "slow_rows"),
    "generate, batched": (lambda job: generate(job, batch=BATCH), "rows"),
    HARNESS: (harness, "slow_rows"),
    "outlines": (outlines, "slow_rows"),
    OURS: (ours, "our_rows"),
}
"""What opens each system, and which flag says how many rows it scores."""


def work(file: Path) -> None:
    """One system in one round."""
    job = json.loads(file.read_text(encoding="utf-8"))
    if job["system"] == "prepare":
        return prepare(job, file)
    open_system, how_many = SYSTEMS[job["system"]]
    count = min(job[how_many], len(job["prompts"]))
    job["prompts"], job["texts"] = job["prompts"][:count], job["texts"][:count]
    predict = open_system(job)
    started = time.perf_counter()
    predictions = predict()
    seconds = round((time.perf_counter() - started) / count, 5)
    finish(file, seconds=[seconds], rows=count, predictions=predictions, likeliest=job.get("likeliest"))


def main() -> None:
    """Parse, run, report."""
    flags = parser(__doc__ or "", list(SYSTEMS))
    flags.add_argument("--eval", help="a file of rows; default: the recipe's data.eval")
    flags.add_argument("--rows", type=int, default=48, help="rows that batched generate scores")
    flags.add_argument("--slow-rows", type=int, default=12, help="rows that systems without batches score")
    flags.add_argument("--our-rows", type=int, default=300, help="rows that ours scores; its start is paid once")
    arguments = flags.parse_args()
    job, found = prepared(__file__, arguments, ("eval", "rows", "slow_rows", "our_rows"))
    inputs = {key: found[key] for key in ("prompts", "labels", "words", "texts")}
    results = take_turns(__file__, job | inputs, arguments.systems, arguments.rounds)
    header = ["system", "rows", "rows per second", "ours is", "peak GB", "predictions equal to ours"]
    title = f"Scoring, {Path(arguments.model).name}"
    report(title, header, table(results), {"job": job, "results": results}, arguments.out)


def table(results: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """One line per system; a rate is that of the median round."""
    seconds = {system: median(said["seconds"][0] for said in one) for system, one in results.items()}
    rows = []
    for system, one in results.items():
        ratio = f"{seconds[system] / seconds[OURS]:.2f}x as fast" if OURS in results and system != OURS else ""
        # The harness takes the likeliest sequence, the others decode greedily; ours gives both.
        mine = results[OURS][0]["likeliest" if system == HARNESS else "predictions"] if OURS in results else []
        theirs = one[0]["predictions"]
        equal = f"{sum(a == b for a, b in zip(theirs, mine, strict=False))} of {len(theirs)}"
        equal = equal if mine and theirs and system != OURS else ""
        rows.append([system, f"{one[0]['rows']}", f"{1 / seconds[system]:.3g}", ratio, f"{peak_gb(one):.2f}", equal])
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]))
    else:
        main()
