"""The pre-training of the embedded model, run by `python -m tools.tiny_llama_fr --output-dir DIR`.

With the default settings it takes about 80 minutes on two CPU cores. A resumed run ends with the same weights as an
uninterrupted one.
"""

import json
import random
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError
from toolkit.utils.atomic_io import atomic_path, remove_leftovers, write_json
from tools.tiny_llama_fr.saving import PROBES, save_model
from tools.tiny_llama_fr.schedule import Progress, Settings, Stage

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from tools.tiny_llama_fr.packing import Batch

DEFAULT_OUTPUT = Path("outputs/tiny-llama-fr")
_TOKENIZER_DOCUMENTS = 20_000


def pretrain(output: Path, settings: Settings, resume: bool = False, stop_after: int | None = None) -> dict[str, Any]:
    """Train a model from scratch and save it with its tokenizer, model card and metrics in `output`.

    Args:
        output: The model folder.
        settings: The settings of the run.
        resume: Whether to resume from the checkpoint in `output`.
        stop_after: The step after which to stop with a checkpoint and without saving the model.

    Returns:
        The metrics, which are also written to `pretrain.json`. Empty if the run stopped early.

    Raises:
        ModelError: If there is no checkpoint to resume from, its settings differ, or it would be overwritten.
    """
    from tools.tiny_llama_fr.tiny_llama import build_model

    checkpoint = output / "checkpoint"
    remove_leftovers(checkpoint)
    if resume and not (checkpoint / "state.json").exists():
        raise ModelError(f"{output} has no checkpoint to resume from.", hint="Start without --resume.")
    if not resume and checkpoint.exists():
        raise ModelError(f"{output} contains an interrupted run.", hint="Add --resume or choose another --output-dir.")
    tokenizer = _train_tokenizer(settings.seed)
    model = build_model(tokenizer, settings.seed)
    progress = _load_progress(checkpoint, settings) if resume else Progress(losses=[])
    # These are the optimizers of the last finished step. If the next step starts a new stage, the loop replaces them.
    optimizers = _make_optimizers(model, settings.stage_at(max(0, progress.step - 1)).stage)
    if resume:
        _load_tensors(checkpoint, model, optimizers)
    _train_steps(model, tokenizer, optimizers, settings, progress, checkpoint, stop_after)
    if progress.step < settings.steps:
        return {}
    metrics = _collect_metrics(model, tokenizer, settings, progress)
    save_model(output, model, tokenizer, metrics)
    shutil.rmtree(checkpoint)
    return metrics


def _train_tokenizer(seed: int) -> Any:
    from tools.tiny_llama_fr.corpus import draw_document
    from tools.tiny_llama_fr.tiny_llama import build_tokenizer, tokenizer_texts

    rng = random.Random(f"tokenizer {seed}")
    # Only the first three stages, because the last one has no new exercises.
    documents = (draw_document(rng, stage=index % 3) for index in range(_TOKENIZER_DOCUMENTS))
    return build_tokenizer(text for document in documents for text in tokenizer_texts(document))


def _make_optimizers(model: Any, stage: Stage) -> "list[Optimizer]":
    """Return Muon for the matrices and AdamW for all other parameters.

    With Muon the model learns to match words in a fraction of the steps.
    """
    import torch

    from tools.tiny_llama_fr.muon import Muon

    # The tied embedding is a lookup table rather than a linear map, so AdamW trains it too.
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.dim() == 2 and "embed" not in name else rest).append(parameter)
    adam = torch.optim.AdamW(rest, lr=stage.adam_rate, betas=(0.9, 0.95), weight_decay=0.0)
    muon = Muon(matrices, lr=stage.muon_rate)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def _train_steps(
    model: Any,
    tokenizer: Any,
    optimizers: "list[Optimizer]",
    settings: Settings,
    progress: Progress,
    checkpoint: Path,
    stop_after: int | None,
) -> None:
    import torch
    from tqdm.auto import tqdm

    from tools.tiny_llama_fr.packing import training_batch

    last = min(settings.steps, stop_after or settings.steps)
    recent: list[float] = []
    model.train()
    bar = tqdm(range(progress.step, last), initial=progress.step, total=settings.steps, unit="step", mininterval=5)
    for step in bar:
        start = time.perf_counter()
        stage_number, stage, done = settings.stage_at(step)
        if step and not done:
            # A new stage starts as if it loaded saved weights: rounded to 16 bits, with new optimizers.
            for parameter in model.parameters():
                parameter.data.copy_(parameter.data.half())
            optimizers = _make_optimizers(model, stage)
        batch = training_batch(tokenizer, settings.seed, step, stage_number, settings.rows, settings.length)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak"] * stage.rate(done)
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        recent.append(loss.item())
        progress.step = step + 1
        progress.tokens += len(batch.tokens)
        progress.seconds += time.perf_counter() - start
        if progress.step % 50 == 0:
            progress.losses = [*(progress.losses or []), round(sum(recent) / len(recent), 4)]
            bar.set_postfix(loss=progress.losses[-1])
            recent = []
        if progress.step % settings.save_every == 0 or progress.step == last:
            _save_checkpoint(checkpoint, model, optimizers, settings, progress)


def _loss(model: Any, batch: "Batch") -> "Tensor":
    """Return the weighted mean of the targets' negative log-likelihoods."""
    import torch

    hidden = model.model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask
    ).last_hidden_state
    # Only positions with a target need logits.
    logits = model.lm_head(hidden.flatten(0, 1)[batch.at])
    losses = torch.nn.functional.cross_entropy(logits, batch.tokens, reduction="none")
    return (losses * batch.weights).sum() / batch.weights.sum()


def _collect_metrics(model: Any, tokenizer: Any, settings: Settings, progress: Progress) -> dict[str, Any]:
    return {
        **asdict(settings),
        "tokens": progress.tokens,
        "seconds": round(progress.seconds),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "losses_every_50_steps": progress.losses,
        "accuracy": exercise_accuracy(model, tokenizer, PROBES),
    }


def exercise_accuracy(model: Any, tokenizer: Any, probes: int) -> dict[str, float]:
    """Return the accuracy of the most likely token for each exercise, on new documents."""
    import torch

    from tools.tiny_llama_fr.corpus import EXERCISES, draw_exercise
    from tools.tiny_llama_fr.packing import encode_document, pack

    model.eval()
    accuracy = {}
    for name in EXERCISES:
        rng = random.Random(f"probe {name}")
        entries = [encode_document(tokenizer, draw_exercise(rng, name)) for _ in range(probes)]
        batch = pack([[entry] for entry in entries], max(len(entry.ids) for entry in entries), tokenizer.pad_token_id)
        with torch.inference_mode():
            inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "attention_mask": batch.mask}
            predicted = model(**inputs).logits.argmax(-1).flatten()[batch.at]
        # Targets with a lower weight are words of questions, which cannot be predicted.
        is_scored = batch.weights == 1
        accuracy[name] = round((predicted == batch.tokens)[is_scored].float().mean().item(), 3)
    return accuracy


def _save_checkpoint(
    folder: Path, model: Any, optimizers: "list[Optimizer]", settings: Settings, progress: Progress
) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.data
        for key, value in _optimizer_state(optimizers, parameter).items():
            tensors[f"{key}.{name}"] = value
    with atomic_path(folder) as partial:
        partial.mkdir()
        save_file(tensors, partial / "state.safetensors")
        write_json(partial / "state.json", {"settings": asdict(settings), "progress": asdict(progress)})


def _owns(optimizer: "Optimizer", parameter: "Tensor") -> bool:
    # `in` would compare the values of tensors.
    return any(parameter is owned for group in optimizer.param_groups for owned in group["params"])


def _optimizer_state(optimizers: "list[Optimizer]", parameter: "Tensor") -> dict[str, "Tensor"]:
    return next(optimizer.state[parameter] for optimizer in optimizers if _owns(optimizer, parameter))


def _load_progress(folder: Path, settings: Settings) -> Progress:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state["settings"] != asdict(settings):
        raise ModelError(
            "The checkpoint was written with a different number of steps or a different seed.",
            hint="Use the same settings.",
        )
    return Progress(**state["progress"])


def _load_tensors(folder: Path, model: Any, optimizers: "list[Optimizer]") -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "state.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors.pop(f"model.{name}"))
        owner = next(optimizer for optimizer in optimizers if _owns(optimizer, parameter))
        # Names such as momentum_buffer.model.norm.weight: the key in the optimizer's state, then the parameter.
        keys = [key for key in tensors if key.split(".", 1)[1] == name]
        owner.state[parameter] = {key.split(".", 1)[0]: tensors[key] for key in keys}
