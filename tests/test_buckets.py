"""Batches of few widths, against every other choice of widths."""

import itertools

import numpy as np
import pytest

from prompt_jax.answer.buckets import few_widths, plan


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_no_other_widths_waste_less(count):
    rng = np.random.default_rng(0)
    for _ in range(20):
        needed = (32 * rng.integers(1, 9, size=12)).tolist()
        widths = few_widths(needed, count)

        def cost(chosen, needed=needed):
            return sum(min(w for w in chosen if w >= need) for need in needed)

        others = sorted(set(needed))
        top = max(needed)
        best = min(
            cost([*some, top])
            for k in range(min(count, len(others)))
            for some in itertools.combinations(others, k)
        )
        assert len(widths) <= count
        assert cost(widths) == best


def test_every_row_is_in_one_batch_that_holds_it():
    lengths = np.random.default_rng(1).integers(1, 281, size=101).tolist()
    groups = [i % 3 == 0 for i in range(101)]
    buckets = plan(lengths, 8, 280, groups)
    assert sorted(i for bucket in buckets for i in bucket.rows) == list(range(101))
    assert len({bucket.width for bucket in buckets}) <= 4
    for bucket in buckets:
        assert len(bucket.rows) <= 8
        assert max(lengths[i] for i in bucket.rows) <= bucket.width
        assert bucket.width <= 280
        assert len({groups[i] for i in bucket.rows}) == 1
    assert len(buckets) == -(-34 // 8) + -(-67 // 8)
    assert plan([], 8, 64) == []
