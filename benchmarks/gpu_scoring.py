"""Scoring in gpu.py: the toolkit's scorer compared with vLLM on the same prompts, sorted and shuffled.

vLLM generates one token, of which only the first tokens of the labels are allowed, and caches prefixes. It has no
adapter to compute and returns only an answer. Ours computes the adapter and returns the probability of every label.
"""

import os
import random
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from gpu_cases import SORTED, Case

_CHUNK_ROWS = 2048
"""Rows per call of our scorer, which sorts the rows of a call, as in a stream. vLLM gets all rows at once."""
_WARM_UP_ROWS = 256


def has_vllm() -> bool:
    """Return True if vLLM is installed."""
    return find_spec("vllm") is not None


def order_prompts(job: dict[str, Any], case: Case) -> list[list[int]]:
    """Return the prompts shuffled, or sorted by their tokens, so that those with a common prefix are adjacent."""
    prompts = sorted(job["prompts"])
    if case.system != SORTED:
        random.Random(0).shuffle(prompts)
    return prompts


def time_scoring(score: Callable[[list[list[int]]], Any], prompts: list[list[int]]) -> dict[str, Any]:
    """Score the prompts and return the result of a case."""
    started = time.perf_counter()
    score(prompts)
    return {"seconds": [round(time.perf_counter() - started, 4)], "rows": len(prompts)}


def score_with_toolkit(job: dict[str, Any], model: Any, case: Case, training_job: Any) -> dict[str, Any]:
    """Score with the scorer that scripts/eval_generate.py uses."""
    from toolkit.inference.label_trie import LabelTrie
    from toolkit.inference.torch_scorer import TorchScorer

    trie = LabelTrie(training_job.preflight.row_tokenizer.label_ids)
    scorer = TorchScorer(model.eval(), trie, batch_tokens=case.nodes)
    scorer.length_multiple = case.multiple

    def score(prompts: list[list[int]]) -> None:
        for start in range(0, len(prompts), _CHUNK_ROWS):
            scorer.score(prompts[start : start + _CHUNK_ROWS])

    prompts = order_prompts(job, case)
    score(prompts[:_WARM_UP_ROWS])
    result = time_scoring(score, prompts)
    model.train()
    return result


def open_vllm(job: dict[str, Any]) -> Callable[[Case], dict[str, Any]]:
    """Load the model in vLLM and return a function that runs a case."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # this process has initialized CUDA
    from vllm import LLM, SamplingParams

    longest = max(map(len, job["prompts"])) + 1
    engine = LLM(job["model_folder"], dtype="bfloat16", max_model_len=longest, enable_prefix_caching=True)
    first_tokens = sorted({ids[0] for ids in job["labels"].values()})
    settings = SamplingParams(max_tokens=1, temperature=0, allowed_token_ids=first_tokens, detokenize=False)

    def score(prompts: list[list[int]]) -> None:
        outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
        if not all(output.outputs[0].token_ids[0] in first_tokens for output in outputs):
            raise RuntimeError("vLLM generated a token that does not start a label")

    def run(case: Case) -> dict[str, Any]:
        prompts = order_prompts(job, case)
        score(prompts[:_WARM_UP_ROWS])
        engine.reset_prefix_cache()  # it contains the prompts of the warm-up and of the previous case
        # vLLM reserves most of the GPU's memory for its cache, whatever the model needs.
        return {**time_scoring(score, prompts), "peak_bytes": None}

    return run
