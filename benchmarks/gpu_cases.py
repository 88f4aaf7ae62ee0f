"""The cases that gpu.py measures, and the processes in which they run."""

from collections.abc import Iterator
from dataclasses import dataclass

TREE, TREE_SHUFFLED = "tree, grouped", "tree, shuffled"
PADDED, UNSLOTH, TRANSFORMERS = "padded rows", "padding-free Unsloth", "transformers"
SORTED, SHUFFLED = "scoring, sorted", "scoring, shuffled"
SCORING = (SORTED, SHUFFLED)
CUDNN, VLLM = "bfloat16 with cuDNN attention", "vLLM"
GROUPS = {"bfloat16": 4, TRANSFORMERS: 1, "4-bit": 1, "float16": 1, CUDNN: 1, VLLM: 2}
"""The processes and their shares of the time."""
BATCHES = (16, 64, 256)
NO_RESULT = {
    "error": None, "seconds": [], "tokens": [], "rows": None, "peak_bytes": None, "gradient_difference": None,
}  # fmt: skip
"""The fields of a result in addition to those of its case and the precision."""


@dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        system: The system.
        batch: Rows per optimizer step, 0 for scoring.
        checkpointing: True if the backward pass recomputes activations.
        multiple: The number to a multiple of which each tree is padded.
        nodes: The largest number of nodes per tree.
        attention: The attention over trees, `split` or `dense`.
    """

    system: str
    batch: int = 0
    checkpointing: bool = False
    multiple: int = 128
    nodes: int = 16_384
    attention: str = "split"


def select_cases(group: str, batches: tuple[int, ...]) -> Iterator[Case]:
    """Yield the cases of one process, the most important ones first.

    - Systems: all in bfloat16 at every batch size; in float16 and 4-bit all but transformers at the smallest.
    - Gradient checkpointing: off, and on for trees and padding-free Unsloth in bfloat16 (smallest and largest batch
      size) and in 4-bit. transformers needs it at the largest batch size.
    - Trees in bfloat16: without and with cuDNN attention, and with dense attention, at every batch size; with lengths
      as they are at the smallest, and of at most 1,536 nodes at the larger ones.
    - Scoring: in bfloat16 with trees of several sizes, and in vLLM if it is installed.
    """
    small, *larger = batches
    if group == TRANSFORMERS:
        yield from (Case(TRANSFORMERS, batch, checkpointing=batch > 64) for batch in batches)
    elif group == CUDNN:
        yield from (Case(TREE, batch) for batch in batches)
    elif group == VLLM:
        yield from (Case(SHUFFLED), Case(SORTED))
    elif group == "bfloat16":
        for batch in (*larger[1:], small, *larger[:1]):
            if batch == small:
                yield Case(PADDED, small)  # first, because the gradients of the others are compared with it
            yield from (Case(system, batch) for system in (UNSLOTH, TREE))
            yield Case(TREE, batch, attention="dense")
        yield from (Case(SHUFFLED), Case(SORTED), Case(SHUFFLED, nodes=1536))
        yield from (Case(TREE_SHUFFLED, batch) for batch in batches)
        yield from (Case(TREE, batch, nodes=1536) for batch in larger)
        for batch in (*larger[1:], small):
            yield from (Case(system, batch, checkpointing=True) for system in (UNSLOTH, TREE))
        yield Case(TREE, small, multiple=1)
    else:
        yield from (Case(system, small) for system in (PADDED, UNSLOTH, TREE, TREE_SHUFFLED))
        if group == "4-bit":
            yield from (Case(system, small, checkpointing=True) for system in (UNSLOTH, TREE))
