"""The systems that training.py compares, each in a separate process: the toolkit's trainer, transformers and TRL."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from side_by_side import write_result

OURS = {"ours, shuffled": False, "ours, grouped": True}
PEERS = ("transformers", "trl on unsloth")


def load_benchmark_recipe(job: dict[str, Any], overrides: Sequence[str] = (), *, grouped: bool) -> Any:
    """Load the recipe that all systems follow."""
    from toolkit.recipe.loading import load_recipe

    data = [f"data.train.path={job['train']}", f"data.eval.path={job['train']}"] if job["train"] else []
    return load_recipe(
        Path(job["recipe"]),
        [
            *data,
            "data.allow_overlap=true",
            "data.calibration_share=0",
            f"model.name={job['model']}",
            "model.dtype=float32",
            "training.micro_batch_size=auto",
            "lora.dropout=0.0",
            f"training.batch_size={job['batch']}",
            f"training.max_steps={job['steps']}",
            f"training.loss_on={job['loss_on']}",
            "training.gradient_checkpointing=false",
            "training.batching=prefix_tree",
            f"training.group_by_premise={str(grouped).lower()}",
            *overrides,
        ],
    )


def prepare(job: dict[str, Any], file: Path) -> None:
    """Write the shuffled rows of every step, as token ids, for the peers."""
    from toolkit.planning.plan import plan_job
    from toolkit.planning.preflight import run_preflight

    preflight = run_preflight(load_benchmark_recipe(job, grouped=False))
    rows = [row for batch in plan_job(preflight).first_batches(job["steps"]) for row in batch]
    write_result(file, seconds=[], rows=rows, lora=preflight.recipe.lora.model_dump())


class StepRecorder:
    """A callback and a collator that record the times, tokens and first gradient of a training run.

    A step is timed from the end of the previous step, so its collation is included.
    """

    def __init__(self, job: dict[str, Any], callback_type: type, collate: Callable[[Any], Any]) -> None:
        import torch  # Unsloth, which patches it, has been imported before

        self.seconds: list[float] = []
        self.tokens: list[int] = []
        recorder, gradient_file = self, Path(job["folder"]) / f"{job['system']}.safetensors"

        class Callback(callback_type):  # type: ignore[misc, valid-type]
            def on_epoch_begin(self, *_: Any, **__: Any) -> None:
                recorder.started = time.perf_counter()

            def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
                if not recorder.seconds and job["round"] == 0:
                    save_gradient(model, gradient_file)

            def on_step_end(self, *_: Any, **__: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                now = time.perf_counter()
                recorder.seconds.append(round(now - recorder.started, 4))
                recorder.started = now

        self.callback = Callback()
        self._collate = collate

    def collate(self, rows: Any) -> Any:
        """Collate the rows and count the tokens that the model will read."""
        batch = self._collate(rows)
        # The toolkit's collators return the micro-batches of a whole step, those of the peers a single micro-batch.
        micro_batches = batch.get("micro_batches", [batch])
        self.tokens.append(sum(micro_batch["input_ids"].numel() for micro_batch in micro_batches))
        return batch


def save_gradient(model: Any, file: Path) -> None:
    """Save the gradient of every trained parameter."""
    from safetensors.torch import save_file

    save_file({name: p.grad.contiguous() for name, p in model.named_parameters() if p.grad is not None}, file)


def seed_adapter(model: Any) -> None:
    """Give every system the same random adapter weights."""
    import torch

    # LoRA's B matrices start at zero, which makes the gradient of A zero. Random values in both compare all of it.

    generator = torch.Generator().manual_seed(0)
    for _, parameter in sorted((name, p) for name, p in model.named_parameters() if p.requires_grad):
        parameter.data.copy_(torch.empty(parameter.shape).normal_(0, 0.01, generator=generator))


def run_ours(job: dict[str, Any]) -> StepRecorder:
    """Train with the trainer that scripts/sft.py uses."""
    from toolkit.models.backend import TrainerCallback
    from toolkit.models.loading import attach_lora, load_base
    from toolkit.models.tree_attention import accept_trees
    from toolkit.planning.plan import plan_job
    from toolkit.planning.preflight import run_preflight
    from toolkit.training.trainer import make_trainer

    recipe = load_benchmark_recipe(job, grouped=OURS[job["system"]])
    preflight = run_preflight(recipe)
    training_job = plan_job(preflight)
    model = attach_lora(
        load_base(preflight.folder, recipe, preflight.precision), recipe.lora, seed=1, gradient_checkpointing=False
    )
    seed_adapter(model)
    accept_trees(model)
    trainer = make_trainer(training_job, model, Path(job["folder"]) / "checkpoints")
    trainer.args.max_grad_norm = 0.0  # no clipping, which would hide differences in the norm
    recorder = StepRecorder(job, TrainerCallback, trainer.data_collator)
    trainer.data_collator = recorder.collate
    trainer.add_callback(recorder.callback)
    trainer.train()
    return recorder


def peer_arguments(job: dict[str, Any]) -> dict[str, Any]:
    """Return the training arguments that both peers use."""
    micro = job["micro"] or job["batch"]
    return {
        "output_dir": f"{job['folder']}/{job['system']}",
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": job["batch"] // micro,
        "max_steps": job["steps"],
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-4,
        "max_grad_norm": 0,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "report_to": "none",
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }


def peer_rows(job: dict[str, Any]) -> Any:
    """Return the prepared rows as a dataset with labels."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "input_ids": [*row["prompt"], *row["answer"]],
                "attention_mask": [1] * (len(row["prompt"]) + len(row["answer"])),
                "labels": [-100] * len(row["prompt"]) + row["answer"]
                if job["loss_on"] == "completion"
                else [*row["prompt"], *row["answer"]],
            }
            for row in job["rows"]
        ]
    )


def run_transformers(job: dict[str, Any]) -> StepRecorder:
    """Train with transformers' Trainer and PEFT as documented, which computes logits for every token."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    model = load_with_peft(job, "float32")
    seed_adapter(model)
    tokenizer = padding_tokenizer(AutoTokenizer, job)
    recorder = StepRecorder(job, TrainerCallback, DataCollatorForSeq2Seq(tokenizer))
    Trainer(
        model=model,
        args=TrainingArguments(**peer_arguments(job)),
        train_dataset=peer_rows(job),
        data_collator=recorder.collate,
        callbacks=[recorder.callback],
    ).train()
    return recorder


def load_with_peft(job: dict[str, Any], dtype: str) -> Any:
    """Load the model with transformers and attach an adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["model_folder"], dtype=getattr(torch, dtype))
    lora = job["lora"]
    config = LoraConfig(
        r=lora["r"], lora_alpha=lora["alpha"], target_modules=lora["target_modules"], task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def run_unsloth(job: dict[str, Any]) -> StepRecorder:
    """Train with TRL's SFTTrainer on Unsloth as in Unsloth's notebooks."""
    from unsloth import FastLanguageModel  # must come first because it patches the others
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, TrainerCallback
    from trl import SFTConfig, SFTTrainer
    import torch

    lora = job["lora"]
    model, _ = FastLanguageModel.from_pretrained(
        model_name=job["model_folder"],
        max_seq_length=384,
        dtype=torch.float32,
        load_in_4bit=False,
        use_gradient_checkpointing=False,
        use_exact_model_name=True,
        local_files_only=True,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=0,
        target_modules=lora["target_modules"],
        use_gradient_checkpointing=False,
    )
    seed_adapter(model)
    tokenizer = padding_tokenizer(AutoTokenizer, job)
    recorder = StepRecorder(job, TrainerCallback, DataCollatorForSeq2Seq(tokenizer))
    SFTTrainer(
        model=model,
        args=SFTConfig(
            **peer_arguments(job),
            max_length=None,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=peer_rows(job),
        data_collator=recorder.collate,
        processing_class=tokenizer,
        callbacks=[recorder.callback],
    ).train()
    return recorder


def padding_tokenizer(tokenizer_class: Any, job: dict[str, Any]) -> Any:
    """Load a tokenizer that has a padding token."""
    tokenizer = tokenizer_class.from_pretrained(job["model_folder"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # occurs only at masked positions
    return tokenizer


def run_worker(file: Path) -> None:
    """Run one system for one round."""
    job = json.loads(file.read_text(encoding="utf-8"))
    if job["system"] == "prepare":
        return prepare(job, file)
    run = {"transformers": run_transformers, "trl on unsloth": run_unsloth}.get(job["system"], run_ours)
    recorder = run(job)
    # Accelerate collates a batch in advance, so there can be more token counts than training steps.
    collated_per_step = 1 if job["system"] in OURS or not job["micro"] else job["batch"] // job["micro"]
    tokens = [sum(recorder.tokens[step * collated_per_step :][:collated_per_step]) for step in range(job["steps"])]
    gradient = Path(job["folder"]) / f"{job['system']}.safetensors"
    differences = gradient_difference(gradient, Path(job["folder"])) if job["round"] == 0 else {}
    write_result(file, seconds=recorder.seconds, tokens=tokens, gradient_difference=differences)


def gradient_difference(gradient: Path, folder: Path) -> dict[str, float]:
    """Return the relative difference from the gradient of each peer that has already run, on the first step's rows."""
    files = {peer: folder / f"{peer}.safetensors" for peer in PEERS}
    return {
        peer: relative_difference(gradient, file) for peer, file in files.items() if file.is_file() and file != gradient
    }


def relative_difference(gradient: Path, reference: Path) -> float:
    """Return the relative difference of two saved gradients over all parameters."""
    import torch
    from safetensors.torch import load_file

    actual, expected = load_file(gradient), load_file(reference)
    difference = torch.cat([(actual[name] - expected[name]).flatten() for name in expected])
    return float(difference.norm() / torch.cat([expected[name].flatten() for name in expected]).norm())
