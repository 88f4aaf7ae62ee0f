"""Rows per second on a GGUF file: the label trie in llama.cpp, one plain request per row, and the torch scorer.

python benchmarks/scoring_gguf.py models/llama-1b --eval test.jsonl --out outputs/bench/scoring-gguf-1b

The plain request decodes greedily with a logit bias on all label tokens and without a cached prefix. It returns an
answer but no probabilities, and it can mix tokens of several labels, so only its speed is compared.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from scoring import OURS, Predict, open_toolkit, prepare, summarize, table
from side_by_side import create_parser, prepare_job, report, take_turns, write_result

PLAIN, TORCH = "one request per row", "torch scorer, float32"


def open_llama_cpp(job: dict[str, Any], gguf: Path) -> Predict:
    """Score with the scorer that scripts/eval_generate.py uses for a GGUF file."""
    from toolkit.inference.label_trie import LabelTrie
    from toolkit.inference.llama_cpp_scorer import LlamaCppScorer

    trie = LabelTrie(job["labels"])
    scorer = LlamaCppScorer(gguf, trie, context_length=384)
    return lambda: trie.greedy(scorer.score(job["prompts"]))


def open_plain_requests(job: dict[str, Any], gguf: Path) -> Predict:
    """Decode greedily up to the length of the longest label, and process the complete prompt of each row."""
    from toolkit.inference.llama_cpp import LlamaCpp

    model = LlamaCpp(gguf, context_length=384, sequences=1)
    tokens = sorted({token for ids in job["labels"].values() for token in ids})
    settings = {
        "max_tokens": max(map(len, job["labels"].values())),
        "logit_bias": [[token, 100] for token in tokens],
        "temperature": 0,
        "cache_prompt": False,
    }

    def predict() -> list[str]:
        for prompt in job["prompts"]:
            model.complete([prompt], **settings)
        return []

    return predict


def run_worker(file: Path) -> None:
    """Run one system for one round."""
    job = json.loads(file.read_text(encoding="utf-8"))
    if job["system"] == "prepare":
        return prepare(job, file)
    count = min(job["slow_rows"] if job["system"] == PLAIN else job["our_rows"], len(job["prompts"]))
    job["prompts"] = job["prompts"][:count]
    gguf = Path(job["folder"]) / "model.gguf"  # written once, by the first system that needs it
    if job["system"] != TORCH and not gguf.is_file():
        from toolkit.export.gguf_writer import write_gguf

        write_gguf(Path(job["model_folder"]), gguf, job["type"], date_string=None, name="model")
    open_system = {OURS: open_llama_cpp, PLAIN: open_plain_requests}.get(job["system"])
    predict = open_system(job, gguf) if open_system else open_toolkit(job)
    started = time.perf_counter()
    predictions = predict()
    seconds = round((time.perf_counter() - started) / count, 5)
    write_result(file, seconds=[seconds], rows=count, predictions=predictions)


def main() -> None:
    """Run the benchmark and report the results."""
    parser = create_parser(__doc__ or "", [OURS, PLAIN, TORCH])
    parser.add_argument("--eval", help="file with the rows (default: data.eval of the recipe)")
    parser.add_argument("--type", default="q8_0", help="GGUF type")
    parser.add_argument("--our-rows", type=int, default=96, help="rows for the two scorers")
    parser.add_argument("--slow-rows", type=int, default=24, help="rows for plain requests")
    arguments = parser.parse_args()
    arguments.rows = arguments.our_rows
    job, prepared = prepare_job(__file__, arguments, ("eval", "rows", "our_rows", "slow_rows", "type"))
    inputs = {key: prepared[key] for key in ("prompts", "labels")}
    results = take_turns(__file__, job | inputs, arguments.systems, arguments.rounds)
    title = f"Scoring {Path(arguments.model).name} as {arguments.type}"
    report(title, summarize(results), arguments.out, table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        run_worker(Path(sys.argv[2]))
    else:
        main()
