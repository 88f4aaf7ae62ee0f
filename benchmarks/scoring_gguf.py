"""Rows per second on a GGUF: the label trie in llama.cpp, one plain request per row, and the torch scorer beside them.

python benchmarks/scoring_gguf.py models/llama-1b --eval test.jsonl --out outputs/bench/scoring-gguf-1b

The plain request decodes greedily under a logit bias on the labels' tokens, without a cached prefix: it gives an answer
and no label's probability. Rows of different labels' tokens may be mixed by it; only its speed is compared.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from scoring import Predict, ours, prepare
from side_by_side import finish, median_seconds, parser, peak_gb, prepared, report, take_turns

OURS, PLAIN, TORCH = "ours", "one request per row", "torch scorer, float32"


def trie_in_llama_cpp(job: dict[str, Any], gguf: Path) -> Predict:
    """What scripts/eval_generate.py RUN --model FILE.gguf runs."""
    from toolkit.inference.label_trie import LabelTrie
    from toolkit.inference.llama_cpp_scorer import LlamaCppScorer

    trie = LabelTrie(job["labels"])
    scorer = LlamaCppScorer(gguf, trie, context_length=384)
    return lambda: trie.greedy(scorer.score(job["prompts"]))


def one_request_per_row(job: dict[str, Any], gguf: Path) -> Predict:
    """Greedy decoding of the longest label's length, the whole prompt read anew for each row."""
    from toolkit.inference.llama_cpp import LlamaCpp

    model = LlamaCpp(gguf, context_length=384, sequences=1)
    tokens = sorted({token for ids in job["labels"].values() for token in ids})
    settings = {
        "max_tokens": max(map(len, job["labels"].values())),
        "logit_bias": [[token, 100] for token in tokens],
        "temperature": 0,
        "cache_prompt": False,
    }
    return lambda: [model.complete([prompt], **settings)[0]["text"] for prompt in job["prompts"]]


def work(file: Path) -> None:
    """One system in one round."""
    job = json.loads(file.read_text(encoding="utf-8"))
    if job["system"] == "prepare":
        return prepare(job, file)
    count = min(job["slow_rows"] if job["system"] == PLAIN else job["our_rows"], len(job["prompts"]))
    job["prompts"] = job["prompts"][:count]
    gguf = Path(job["folder"]) / "model.gguf"  # written once, by the first system of the first round
    if job["system"] != TORCH and not gguf.is_file():
        from toolkit.export.gguf_writer import write_gguf

        write_gguf(Path(job["model_folder"]), gguf, job["type"], date_string=None, name="model")
    opened = {OURS: trie_in_llama_cpp, PLAIN: one_request_per_row}.get(job["system"])
    predict = opened(job, gguf) if opened else ours(job)
    started = time.perf_counter()
    predictions = predict()
    seconds = round((time.perf_counter() - started) / count, 5)
    finish(file, seconds=[seconds], rows=count, predictions=predictions)


def main() -> None:
    """Parse, run, report."""
    flags = parser(__doc__ or "", [OURS, PLAIN, TORCH])
    flags.add_argument("--eval", help="a file of rows; default: the recipe's data.eval")
    flags.add_argument("--type", default="q8_0", help="the GGUF's file type")
    flags.add_argument("--our-rows", type=int, default=96, help="rows that the two scorers score")
    flags.add_argument("--slow-rows", type=int, default=24, help="rows that plain requests answer")
    arguments = flags.parse_args()
    arguments.rows = arguments.our_rows
    job, found = prepared(__file__, arguments, ("eval", "rows", "our_rows", "slow_rows", "type"))
    inputs = {key: found[key] for key in ("prompts", "labels")}
    results = take_turns(__file__, job | inputs, arguments.systems, arguments.rounds)
    seconds = {system: median_seconds(said) for system, said in results.items()}
    rows = []
    for system, said in results.items():
        ratio = f"{seconds[system] / seconds[OURS]:.2f}x as fast" if OURS in seconds and system != OURS else ""
        rows.append([system, f"{said[0]['rows']}", f"{1 / seconds[system]:.3g}", ratio, f"{peak_gb(said):.2f}"])
    title = f"Scoring {Path(arguments.model).name} as {arguments.type}"
    header = ["system", "rows", "rows per second", "ours is", "peak GB"]
    report(title, header, rows, {"job": job, "results": results}, arguments.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]))
    else:
        main()
