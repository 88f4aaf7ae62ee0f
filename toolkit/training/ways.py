"""What differs between the kinds of model, from the plan of a step to the trainer; all else of a run is the same."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.kinds import Kind
from toolkit.model.backend import DEVICE
from toolkit.model.heap import return_freed_blocks
from toolkit.model.loading import attach_lora, load_base
from toolkit.preflight import Preflight
from toolkit.training.encoder import load_for_training, make_encoder_trainer, plan_encoder
from toolkit.training.plan import Plan, make_plan
from toolkit.training.trainer import make_trainer


@dataclass(frozen=True)
class Way:
    """From rows to a trainer."""

    plan: Callable[[Preflight], Plan]
    load: Callable[[Preflight, Plan], Any]
    make_trainer: Callable[[Preflight, Plan, Any, Path], Any]


def _load_decoder(before: Preflight, plan: Plan) -> Any:
    recipe, checkpointing = before.recipe, plan.gradient_checkpointing
    if checkpointing and DEVICE == "cpu":
        return_freed_blocks()
    model = load_base(before.folder, recipe, before.precision, gradient_checkpointing=checkpointing)
    return attach_lora(model, recipe.lora, seed=recipe.seed, gradient_checkpointing=checkpointing)


WAYS: dict[Kind, Way] = {
    "decoder": Way(make_plan, _load_decoder, make_trainer),
    "encoder": Way(plan_encoder, load_for_training, make_encoder_trainer),
}
