"""The global order of rows: a function of (seed, step) that loses and repeats nothing."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.data.packing import WINDOW, Piece, RowPlan
from prompt_jax.data.rows import rows_of
from prompt_jax.data.source import Data, TaskBatches
from prompt_jax.errors import UserError
from prompt_jax.prompt.layout import PromptLayout


def lengths(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 30, size=(n, 2))


def plan(sizes=(300,), rates=(1.0,), batch_size=8, seed=5, packed=True, capacity=(64, 48)):
    columns = [lengths(n, task) for task, n in enumerate(sizes)]
    return RowPlan(columns, list(rates), capacity, batch_size, seed, packed)


KINDS = [
    {},
    {"packed": False},
    {"sizes": (300, 20), "rates": (3.0, 1.0)},
    {"sizes": (300, 20), "rates": (3.0, 1.0), "packed": False},
    {"sizes": (WINDOW + 404,), "batch_size": 32},
]


@pytest.mark.parametrize("kind", KINDS)
def test_random_access_equals_sequential(kind):
    """Also across windows, backwards, and for a plan that is asked for the first time."""
    one = plan(**kind)
    steps = [one.batch(step) for step in range(100)]
    assert all(len(rows) == one.batch_size for rows in steps)
    assert plan(**kind).batch(99) == steps[99]
    wild = plan(**kind)
    for step in (90, 3, 99, 98, 0, 60):
        assert wild.batch(step) == steps[step]
    assert all(a != b for a, b in pairwise(steps))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind):
    assert plan(seed=1, **kind).batch(2) == plan(seed=1, **kind).batch(2)
    assert plan(seed=1, **kind).batch(2) != plan(seed=2, **kind).batch(2)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("n", [1, 300, WINDOW, WINDOW + 904])
def test_every_example_of_an_epoch_appears_once(n, packed):
    """A window is as many whole epochs as make 4096 examples."""
    one = plan(sizes=(n,), batch_size=1, packed=packed)
    epochs = -(-WINDOW // n)
    step = 0
    for _ in range(2):
        pieces: list[Piece] = []
        while len(pieces) < n * epochs:
            pieces += one.batch(step)[0]
            step += 1
        assert Counter(pieces) == {Piece(0, i): epochs for i in range(n)}


def test_padded_epochs_follow_one_another_in_new_orders():
    one = plan(packed=False, batch_size=300)
    first, second = one.batch(0), one.batch(1)
    assert all(len(row) == 1 for row in first)
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("kind", KINDS)
def test_capacities_hold(kind):
    one = plan(**kind)
    for step in range(60):
        for row in one.batch(step):
            used = sum(one.columns[piece.task][piece.example] for piece in row)
            assert (used <= one.capacity).all()


def test_rows_are_full():
    one = plan(sizes=(3000,), capacity=(128, 128))
    rows = [row for step in range(40) for row in one.batch(step)]
    used = sum(int(one.columns[0][piece.example][0]) for row in rows for piece in row)
    assert used / (len(rows) * 128) > 0.9


def test_an_example_that_fills_a_row_stands_alone():
    columns = [np.array([[10, 10], [10, 1], [1, 10]])]
    rows = RowPlan(columns, [1.0], (10, 10), 4, 0).batch(0)
    assert all(len(row) == 1 for row in rows)


@pytest.mark.parametrize("packed", [True, False])
def test_mixtures_keep_their_rates(packed):
    one = plan(sizes=(300, 20, 50), rates=(6.0, 3.0, 1.0), packed=packed)
    pieces = [piece for step in range(250) for row in one.batch(step) for piece in row]
    counts = Counter(piece.task for piece in pieces)
    shares = [counts[task] / len(pieces) for task in range(3)]
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.03)


def test_each_task_of_a_mixture_is_drawn_epoch_by_epoch():
    one = plan(sizes=(300, 20), rates=(1.0, 1.0), packed=False)
    pieces = [piece for step in range(100) for row in one.batch(step) for piece in row]
    small = [piece.example for piece in pieces if piece.task == 1]
    for start in range(0, len(small) - 20, 20):
        assert sorted(small[start : start + 20]) == list(range(20))


def test_a_task_of_rate_zero_is_left_out():
    one = plan(sizes=(300, 20), rates=(1.0, 0.0))
    pieces = [piece for step in range(50) for row in one.batch(step) for piece in row]
    assert {piece.task for piece in pieces} == {0}


def test_in_buckets_a_steps_rows_are_alike_and_every_example_comes_once_an_epoch():
    rng = np.random.default_rng(0)
    columns = np.stack([rng.integers(4, 33, 40), np.ones(40, int)], axis=1)
    plan = RowPlan([columns], [1.0], (32, 4), 4, 0, packed=False, buckets=(8, 16, 32))
    steps = [plan.batch(step) for step in range(60)]
    widths = [plan.width(step) for step in range(60)]
    assert set(widths) == {8, 16, 32}
    for rows, width in zip(steps, widths, strict=True):
        assert len(rows) == 4 and all(len(row) == 1 for row in rows)
        needs = [columns[row[0].example][0] for row in rows]
        assert max(needs) <= width and min(needs) > {8: 0, 16: 8, 32: 16}[width]
    order = [row[0].example for rows in steps for row in rows]
    counts = np.bincount(order, minlength=40)
    assert counts.max() - counts.min() <= 1  # some wait for their bucket to be full
    again = RowPlan([columns], [1.0], (32, 4), 4, 0, packed=False, buckets=(8, 16, 32))
    assert again.batch(7) == steps[7]


def test_a_step_has_few_tasks_in_equal_parts():
    """By hand, for ten examples of three equal tasks. K is 2 or 3; 10 of one task come with 1/2 1/3
    + 1/2 1/9, 5 and 5 with 1/2 2/3, 4 3 3 with 1/2 2/9. Where one of three draws is another's task,
    with 1/2 2/3, what 3 leaves over goes to it twice as often as to the third: 7 3 and 6 4.
    """
    columns = [lengths(20, task) for task in range(3)]
    one = RowPlan(columns, [1.0] * 3, (64, 48), 10, 0, packed=False, few_tasks=True)
    steps = [one.batch(n) for n in range(1800)]
    counts = [Counter(piece.task for (piece,) in rows) for rows in steps]
    shares = Counter(tuple(sorted(count.values(), reverse=True)) for count in counts)
    wanted = {(10,): 2 / 9, (5, 5): 1 / 3, (4, 3, 3): 1 / 9, (7, 3): 2 / 9, (6, 4): 1 / 9}
    assert shares.keys() == wanted.keys()
    for kind, share in wanted.items():
        assert shares[kind] / len(steps) == pytest.approx(share, abs=0.04)
    again = RowPlan(columns, [1.0] * 3, (64, 48), 10, 0, packed=False, few_tasks=True)
    assert again.batch(1700) == steps[1700] and again.batch(3) == steps[3]
    rare = RowPlan(columns, [0.0, 1.0, 1.0], (64, 48), 10, 0, packed=False, few_tasks=True)
    assert all(piece.task for n in range(50) for (piece,) in rare.batch(n))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "Data.packed is on"), ({"packed": False, "buckets": (8,)}, "Data.buckets is on")],
)
def test_few_tasks_need_one_example_to_a_row(settings, message):
    with pytest.raises(UserError, match=message):
        Data(task="a+b", input_length=8, target_length=8, batch_size=4, few_tasks=True, **settings)


def test_few_tasks_need_several():
    data = Data(
        task="rows", input_length=12, target_length=5, batch_size=4, packed=False, few_tasks=True
    )
    rows = [{"inputs": "a", "targets": "b"}]
    with pytest.raises(UserError, match="rows is one task; name a mixture, as A"):
        tasks = [rows_of("rows", rows, Vocabulary.bytes(), (12, 5))]
        TaskBatches(tasks, [1.0], data, PromptLayout(), 0)
