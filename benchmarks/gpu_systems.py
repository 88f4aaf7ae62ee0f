"""The systems that gpu.py compares. One process loads a model in one precision and runs many cases with it."""

import gc
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpu_cases import CUDNN, NO_RESULT, PADDED, SCORING, TRANSFORMERS, TREE_SHUFFLED, UNSLOTH, VLLM, Case
from gpu_scoring import has_vllm, open_vllm, score_with_toolkit
from side_by_side import write_result
from training_systems import (
    StepRecorder,
    load_benchmark_recipe,
    load_with_peft,
    padding_tokenizer,
    peer_arguments,
    peer_rows,
    relative_difference,
    seed_adapter,
)

_LOSS_SCALE = 1024.0
"""The loss scale of float16 in the first step, in which GradScaler's initial 65,536 can overflow."""
_TRANSFORMERS_ROWS = 64
"""Rows per micro-batch of transformers, which computes logits for every token."""


def run_worker(file: Path, job: dict[str, Any]) -> None:
    """Run the cases of one process."""
    if job["system"] == "prepare":
        return prepare(job, file)
    cases = [Case(**case) for case in job["cases"][job["system"]]]
    run = {TRANSFORMERS: run_transformers_cases, VLLM: run_vllm_cases}.get(job["system"], run_toolkit_cases)
    results: list[dict[str, Any]] = []
    # Loading a model after the deadline would take too long.
    is_late = time.time() > job["deadlines"][job["system"]]
    for case, outcome in skip(cases, "no time left") if is_late else run(job, cases):
        result = {**asdict(case), "precision": job["system"], **NO_RESULT, **outcome}
        results.append(result)
        with Path(job["log"]).open("a", encoding="utf-8") as log:
            log.write(json.dumps(result) + "\n")
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    write_result(file, seconds=[], cases=results, device=device)


def skip(cases: list[Case], reason: str) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Yield the cases without running them."""
    yield from ((case, {"error": f"not run: {reason}"}) for case in cases)


def benchmark_recipe(job: dict[str, Any], batch: int, *, grouped: bool, precision: str = "bfloat16") -> Any:
    """Load the recipe in the precision of this process."""
    dtype = precision if precision == "float16" else "bfloat16"
    overrides = ["model.dtype=" + ("float32" if job["smoke"] else dtype)]
    overrides += ["model.load_in_4bit=" + str(precision == "4-bit").lower()]
    warm_up, steps = step_counts(job, batch)
    settings = {"batch": batch, "steps": warm_up + steps, "loss_on": "completion"}
    return load_benchmark_recipe({**job, **settings}, overrides, grouped=grouped)


def step_counts(job: dict[str, Any], batch: int) -> tuple[int, int]:
    """Return the warm-up steps and the timed steps. A step of more rows takes longer, so there are fewer of them."""
    share = (job["smallest"] / batch) ** 0.5
    return round(job["warm_up"] * share), max(round(job["steps"] * share), min(job["steps"], 4))


def prepare(job: dict[str, Any], file: Path) -> None:
    """Write the training rows as token ids, in the order of grouped trees, and the prompts to score."""
    from toolkit.data.examples import load_rows
    from toolkit.planning.plan import plan_job
    from toolkit.planning.preflight import run_preflight

    preflight = run_preflight(benchmark_recipe(job | {"smallest": 4}, 4, grouped=True))
    rows = [row for batch in plan_job(preflight).first_batches(2500) for row in batch][:2500]
    scored = preflight.train_rows
    if job["score"]:
        source = preflight.recipe.data.eval.model_copy(update={"path": tuple(job["score"])})
        scored = preflight.row_tokenizer.encode(load_rows(preflight.recipe, source, is_external=True).examples)
    write_result(
        file,
        seconds=[],
        rows=rows,
        lora=preflight.recipe.lora.model_dump(),
        prompts=list(dict.fromkeys(tuple(row.prompt) for row in scored))[: 64 if job["smoke"] else None],
        labels=preflight.row_tokenizer.label_ids,
    )


def run_toolkit_cases(job: dict[str, Any], cases: list[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Run the cases that need a model loaded by the toolkit, which Unsloth has patched."""
    import toolkit.models.backend  # noqa: F401 - Unsloth comes before transformers
    from toolkit.models.loading import attach_lora, load_base
    from toolkit.planning.plan import plan_job
    from toolkit.planning.preflight import run_preflight

    recipe = benchmark_recipe(job, job["smallest"], grouped=True, precision=job["system"])
    training_job = plan_job(run_preflight(recipe))
    preflight = training_job.preflight
    gc.collect()
    gc.freeze()  # each of the many collections would take seconds
    for checkpointing in (False, True):
        model = None
        for case in cases:
            if case.checkpointing != checkpointing:
                continue
            if model is None and time.time() < job["deadlines"][job["system"]]:
                free_memory()
                model = attach_lora(
                    load_base(preflight.folder, recipe, preflight.precision, gradient_checkpointing=checkpointing),
                    recipe.lora,
                    seed=1,
                    gradient_checkpointing=checkpointing,
                )
            yield case, attempt(job, lambda case=case, model=model: run_toolkit_case(job, case, model, training_job))


def run_toolkit_case(job: dict[str, Any], case: Case, model: Any, training_job: Any) -> dict[str, Any]:
    """Run one case with the adapter's initial weights."""
    seed_adapter(model)
    if case.system in SCORING:
        return score_with_toolkit(job, model, case, training_job)
    run = run_unsloth if case.system == UNSLOTH else run_ours
    return measure(job, case, lambda recorder_job: run(job, case, model, training_job, recorder_job))


def attempt(job: dict[str, Any], run: Any) -> dict[str, Any]:
    """Run a case and return its result, or the reason why there is none."""
    import torch

    if time.time() > job["deadlines"][job["system"]]:
        return {"error": "not run: no time left"}
    free_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        result = run()
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"peak_bytes": peak, **result}


def run_vllm_cases(job: dict[str, Any], cases: list[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Score with vLLM. If the model cannot be loaded, the error is the result of every case."""
    if not has_vllm():
        yield from skip(cases, "vllm is not installed")
        return
    opened: dict[str, Any] = {}

    def run(case: Case) -> dict[str, Any]:
        if not opened:
            opened["run"] = open_vllm(job)
        return opened["run"](case)

    for case in cases:
        yield case, attempt(job, lambda case=case: run(case))


def free_memory() -> None:
    """Free the memory that the previous case left allocated on the GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(job: dict[str, Any], case: Case, train_case: Any) -> dict[str, Any]:
    """Train with a recorder and return the timed steps, their tokens and the first gradient's difference."""
    name = ", ".join(map(str, [job["system"], *asdict(case).values()]))
    recorder = train_case({**job, "system": name, "round": 0})
    warm_up, steps = step_counts(job, case.batch)
    folder = Path(job["folder"])
    gradient, reference = folder / f"{name}.safetensors", folder / f"padded, {case.batch}, {job['system']}.safetensors"
    if case.system == PADDED:
        gradient.rename(reference)
    if not reference.is_file():
        reference = folder / f"padded, {case.batch}, bfloat16.safetensors"
    is_comparable = case.system not in (PADDED, TREE_SHUFFLED) and reference.is_file()
    # Accelerate collates a batch in advance, so there can be more token counts than training steps.
    per_step = max(1, case.batch // _TRANSFORMERS_ROWS) if case.system == TRANSFORMERS else 1
    counts = [sum(recorder.tokens[step * per_step :][:per_step]) for step in range(warm_up, warm_up + steps)]
    return {
        "seconds": recorder.seconds[warm_up:],
        "tokens": counts,
        "gradient_difference": relative_difference(gradient, reference) if is_comparable else None,
    }


def train_with(trainer: Any, recorder: StepRecorder) -> StepRecorder:
    """Train and record."""
    trainer.args.max_grad_norm = 0.0  # no clipping, which would hide differences in the norm
    trainer.data_collator = recorder.collate
    trainer.add_callback(recorder.callback)
    scaler = trainer.accelerator.scaler
    if scaler is not None:
        scaler.load_state_dict(scaler.state_dict() | {"scale": _LOSS_SCALE})
    trainer.train()
    return recorder


def run_ours(job: dict[str, Any], case: Case, model: Any, training_job: Any, recorder_job: dict[str, Any]) -> Any:
    """Train with the trainer that scripts/sft.py uses."""
    import torch
    from toolkit.batching.collators import NumberedCollator, TreeCollator
    from toolkit.models.backend import TrainerCallback
    from toolkit.models.tree_attention import accept_trees
    from toolkit.training.trainer import make_trainer

    recipe = benchmark_recipe(job, case.batch, grouped=case.system != TREE_SHUFFLED, precision=job["system"])
    plan = replace(
        training_job.plan,
        batch_size=case.batch,
        micro_batch_size=min(case.batch, _TRANSFORMERS_ROWS),
        steps=recipe.training.max_steps,
        group_by=training_job.plan.group_by if case.system != TREE_SHUFFLED else (),
        gradient_checkpointing=case.checkpointing,
    )
    if case.system == PADDED:
        plan = replace(plan, batching=replace(plan.batching, name="padded"))
    this_job = replace(training_job, plan=plan, preflight=replace(training_job.preflight, recipe=recipe))
    accept_trees(model)
    # Compiled code keeps the kernel that was enabled when it was traced, so trees with cuDNN run in their own process.
    torch.backends.cuda.enable_cudnn_sdp(job["system"] == CUDNN)
    trainer = make_trainer(this_job, model, Path(job["folder"]) / "ours" / "checkpoints")
    collate = trainer.data_collator
    if case.system != PADDED:
        collate = NumberedCollator(TreeCollator(case.nodes, "completion", case.multiple, case.attention))
    return train_with(trainer, StepRecorder(recorder_job, TrainerCallback, collate))


def run_unsloth(job: dict[str, Any], case: Case, model: Any, training_job: Any, recorder_job: dict[str, Any]) -> Any:
    """Train with TRL's SFTTrainer on Unsloth without padding: all rows of a batch are one sequence.

    Unsloth enables this by default on GPUs for which it has no measurements, such as Hopper.
    """
    import torch
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer
    from toolkit.models.tree_attention import accept_trees

    accept_trees(model, False)
    torch.backends.cuda.enable_cudnn_sdp(True)  # PyTorch's default
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **gpu_arguments(job, case, training_job.preflight.precision.name, training_job.plan.optimizer),
            max_length=None,
            padding_free=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=peer_rows(job | {"loss_on": "completion"}).remove_columns("attention_mask"),
        processing_class=padding_tokenizer(AutoTokenizer, job),
    )
    return train_with(trainer, StepRecorder(recorder_job, TrainerCallback, trainer.data_collator))


def gpu_arguments(job: dict[str, Any], case: Case, precision: str, optimizer: str) -> dict[str, Any]:
    """Return the training arguments of the peers."""
    import torch

    warm_up, steps = step_counts(job, case.batch)
    micro = min(case.batch, _TRANSFORMERS_ROWS) if case.system == TRANSFORMERS else case.batch
    arguments = peer_arguments({**job, "batch": case.batch, "micro": micro, "steps": warm_up + steps})
    return arguments | {
        "optim": optimizer,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "gradient_checkpointing": case.checkpointing,
        "logging_steps": 1,  # as ours
    }


def run_transformers_cases(job: dict[str, Any], cases: list[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Train with transformers' Trainer and PEFT as documented, without Unsloth's changes to them."""
    import torch
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    precision = "float32" if job["smoke"] else "bfloat16"
    model = load_with_peft(job, precision).to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, rows = padding_tokenizer(AutoTokenizer, job), peer_rows(job | {"loss_on": "completion"})

    def run(case: Case) -> dict[str, Any]:
        seed_adapter(model)
        arguments = TrainingArguments(**gpu_arguments(job, case, precision, "adamw_torch_fused"))
        collate = DataCollatorForSeq2Seq(tokenizer)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)

        def train(recorder_job: dict[str, Any]) -> StepRecorder:
            return train_with(trainer, StepRecorder(recorder_job, TrainerCallback, collate))

        return measure(job, case, train)

    for case in cases:
        yield case, attempt(job, lambda case=case: run(case))
