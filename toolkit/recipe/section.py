"""The base class of a recipe's sections, and the types of their values."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
GgufType = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0", "mxfp4", "tq2_0", "tq1_0"
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# The upper bounds are far above those of any real run: a larger number is a typo, and a loop over it would never end.
Count = Annotated[int, Field(gt=0, le=10**9)]
BatchRows = Annotated[int, Field(gt=0, le=10**6)]
LoraSize = Annotated[int, Field(gt=0, le=2**16)]
# YAML has no tuples, and pydantic's strict mode does not convert lists to tuples.
Labels = Annotated[tuple[str, ...], Field(strict=False, min_length=2)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class Section(BaseModel):
    """A section of the recipe: frozen, without unknown keys and without silent conversion of values."""

    # Strict: without it, pydantic would turn "8" into 8 and 1 into True, and hide a mistake in the recipe.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
