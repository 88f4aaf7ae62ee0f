"""Batch sizes: they divide, they fit, and nothing is left out."""

from hypothesis import given
from hypothesis import strategies as st

from toolkit.batching.sampling import activation_bytes_per_token, batches_by_tokens, choose_micro_batch


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000))
def test_batches_hold_every_item_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(batches_by_tokens(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(st.integers(1, 128), st.integers(1, 4), st.integers(1, 10**9))
def test_a_micro_batch_divides_its_share_of_the_batch(batch: int, processes: int, free: int) -> None:
    rows = choose_micro_batch(batch, processes, longest=200, bytes_per_token=1000, free_bytes=free)
    assert max(1, batch // processes) % rows == 0
    assert rows == 1 or rows * 200 * 1000 <= free / 2


def test_more_memory_gives_larger_micro_batches() -> None:
    sizes = [choose_micro_batch(16, 1, 230, 4_000_000, free) for free in (10**9, 8 * 10**9, 10**11)]
    assert sizes == [1, 4, 16]


def test_checkpointing_holds_far_less() -> None:
    shape = {"layers": 16, "hidden": 2048, "intermediate": 8192, "vocabulary": 128_256, "item_bytes": 4}
    kept = activation_bytes_per_token(**shape, checkpointing=False)
    assert activation_bytes_per_token(**shape, checkpointing=True) < kept / 4
