"""The pre-training of the embedded model; `python -m tools.tiny_llama_fr --output-dir DIR` runs it.

On two CPU cores the defaults take about 80 minutes. A run that is interrupted and resumed ends with the same weights
as an uninterrupted one.
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
    """Train a model from scratch and save it, its tokenizer, its card and its figures in `output`.

    Args:
        resume: continue from `output`/checkpoint.
        stop_after: leave a checkpoint after this step and return without saving the model.

    Returns:
        The figures that are also written to `pretrain.json`.

    Raises:
        ModelError: there is no checkpoint to resume, it has other settings, or it would be overwritten.
    """
    from tools.tiny_llama_fr.tiny_llama import build_model

    checkpoint = output / "checkpoint"
    remove_leftovers(checkpoint)
    if resume and not (checkpoint / "state.json").exists():
        raise ModelError(f"{output} has no checkpoint to resume.", hint="Start it without resuming.")
    if not resume and checkpoint.exists():
        raise ModelError(f"{output} holds an interrupted run.", hint="Resume it, or choose another output folder.")
    tokenizer = _tokenizer(settings.seed)
    model = build_model(tokenizer, settings.seed)
    progress = _load_progress(checkpoint, settings) if resume else Progress(losses=[])
    optimizers = _optimizers(model, settings.stage_at(max(0, progress.step - 1)).stage)
    if resume:
        _load_tensors(checkpoint, model, optimizers)
    _train(model, tokenizer, optimizers, settings, progress, checkpoint, stop_after)
    if progress.step < settings.steps:
        return {}
    figures = _figures(model, tokenizer, settings, progress)
    save_model(output, model, tokenizer, figures)
    shutil.rmtree(checkpoint)
    return figures


def _tokenizer(seed: int) -> Any:
    from tools.tiny_llama_fr.corpus import draw_document
    from tools.tiny_llama_fr.tiny_llama import build_tokenizer, tokenizer_texts

    rng = random.Random(f"tokenizer {seed}")
    # The last stage has no new exercises.
    documents = (draw_document(rng, stage=number % 3) for number in range(_TOKENIZER_DOCUMENTS))
    return build_tokenizer(text for document in documents for text in tokenizer_texts(document))


def _optimizers(model: Any, stage: Stage) -> "list[Optimizer]":
    """Return Muon for the matrices and AdamW for the rest: with Muon, matching words takes a fraction of the steps."""
    import torch

    from tools.tiny_llama_fr.muon import Muon

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


def _train(
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
        number, stage, done = settings.stage_at(step)
        if step and not done:
            # A later stage begins as if from shipped weights: in 16 bits, with new optimizers.
            for parameter in model.parameters():
                parameter.data.copy_(parameter.data.half())
            optimizers = _optimizers(model, stage)
        batch = training_batch(tokenizer, settings.seed, step, number, settings.rows, settings.length)
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
            _save(checkpoint, model, optimizers, settings, progress)


def _loss(model: Any, batch: "Batch") -> "Tensor":
    """Return the mean negative log-likelihood of the targets, weighted by their weights."""
    import torch

    hidden = model.model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask
    ).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[batch.at])
    losses = torch.nn.functional.cross_entropy(logits, batch.tokens, reduction="none")
    return (losses * batch.weights).sum() / batch.weights.sum()


def _figures(model: Any, tokenizer: Any, settings: Settings, progress: Progress) -> dict[str, Any]:
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
    """Return for each exercise the share of targets in fresh documents that the most likely token gets right."""
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
        asked = batch.weights == 1
        accuracy[name] = round((predicted == batch.tokens)[asked].float().mean().item(), 3)
    return accuracy


def _save(folder: Path, model: Any, optimizers: "list[Optimizer]", settings: Settings, progress: Progress) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.data
        for key, value in _state(optimizers, parameter).items():
            tensors[f"{key}.{name}"] = value
    with atomic_path(folder) as partial:
        partial.mkdir()
        save_file(tensors, partial / "state.safetensors")
        write_json(partial / "state.json", {"settings": asdict(settings), "progress": asdict(progress)})


def _owns(optimizer: "Optimizer", parameter: "Tensor") -> bool:
    return any(parameter is owned for group in optimizer.param_groups for owned in group["params"])


def _state(optimizers: "list[Optimizer]", parameter: "Tensor") -> dict[str, "Tensor"]:
    return next(optimizer.state[parameter] for optimizer in optimizers if _owns(optimizer, parameter))


def _load_progress(folder: Path, settings: Settings) -> Progress:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state["settings"] != asdict(settings):
        raise ModelError("The checkpoint was made with other steps or another seed.", hint="Use the same settings.")
    return Progress(**state["progress"])


def _load_tensors(folder: Path, model: Any, optimizers: "list[Optimizer]") -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "state.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors.pop(f"model.{name}"))
        owner = next(optimizer for optimizer in optimizers if _owns(optimizer, parameter))
        keys = [key for key in tensors if key.split(".", 1)[1] == name]
        owner.state[parameter] = {key.split(".", 1)[0]: tensors[key] for key in keys}
