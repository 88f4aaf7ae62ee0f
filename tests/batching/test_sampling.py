"""Row order and batch sizes: batches divide evenly, fit into memory and leave no row out."""

from hypothesis import given
from hypothesis import strategies as st

from toolkit.batching.sampling import (
    RowOrder,
    batch_by_length,
    choose_batch_tokens,
    choose_micro_batch,
    row_length_multiple,
)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(0, 9), st.booleans())
def test_epoch_has_every_row_once(groups: list[str], seed: int, grouping: bool) -> None:
    """The order is reproducible, and with grouping the rows of a group are adjacent."""
    order = RowOrder(groups, seed=seed, grouping=grouping)
    first = list(order)
    assert sorted(first) == list(range(len(groups))) and first == list(RowOrder(groups, seed=seed, grouping=grouping))
    runs = [name for i, name in enumerate(groups[j] for j in first) if i == 0 or groups[first[i - 1]] != name]
    assert not grouping or len(runs) == len(set(groups))


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = []
    for seed in (1, 2):
        order = RowOrder(range(50), seed=seed, grouping=False)
        for epoch in (0, 1):
            order.set_epoch(epoch)
            orders.append(tuple(order))
    assert len(set(orders)) == 4


@given(st.integers(1, 128), st.integers(1, 4), st.integers(1, 10**6))
def test_micro_batches_divide_the_batch_evenly(batch: int, processes: int, affordable: int) -> None:
    rows = choose_micro_batch(batch, processes, longest=200, affordable_tokens=affordable)
    assert max(1, batch // processes) % rows == 0
    assert rows == 1 or rows * 200 <= affordable


def test_more_memory_gives_larger_batches() -> None:
    assert [choose_micro_batch(16, 1, 230, tokens) for tokens in (125, 1_000, 10**5)] == [1, 4, 16]
    assert [choose_batch_tokens(230, tokens) for tokens in (125, 1_000, 10**5)] == [230, 1_000, 1_536]


def test_huge_batch_is_divided_quickly() -> None:
    assert choose_micro_batch(10**99, 1, longest=200, affordable_tokens=200 * 16) == 16


def test_batches_by_length_respect_their_budget() -> None:
    lengths = [5, 30, 7, 7, 2, 90, 5]
    batches = list(batch_by_length(lengths, 40))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert batches[0] == [5], "a row above the budget has its own batch"
    assert all(max(lengths[i] for i in batch) * len(batch) <= 40 for batch in batches[1:])


def test_padded_rows_do_not_exceed_the_longest_row() -> None:
    assert row_length_multiple("cpu", 2, 384) == 8
    assert row_length_multiple("cpu", 2, 130) == 1  # 130 tokens would become 136
    assert row_length_multiple("cpu", 4, 384) == row_length_multiple("cuda", 2, 384) == 1
