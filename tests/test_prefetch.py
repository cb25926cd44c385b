"""Batches are made ahead, in order, and no further than allowed; errors come at their step."""

import time

import pytest

from prompt_jax.run.log import Meter
from prompt_jax.run.prefetch import AHEAD, Prefetch


def test_batches_come_in_order_and_not_too_early():
    made = []
    batches = Prefetch(lambda step: made.append(step) or step * 10, range(3, 50))
    time.sleep(0.3)
    assert made == list(range(3, 3 + AHEAD + 1))  # one more is made, and waits for its place
    assert [batches.next(step, Meter()) for step in range(3, 20)] == list(range(30, 200, 10))
    batches.close()
    assert len(made) <= 17 + AHEAD + 1


def test_an_error_is_raised_at_its_step():
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("no step 2")
        return step

    batches, meter = Prefetch(make, range(5)), Meter()
    assert [batches.next(0, meter), batches.next(1, meter)] == [0, 1]
    with pytest.raises(ValueError, match="no step 2"):
        batches.next(2, meter)
    batches.close()


def test_the_time_of_waiting_is_told():
    meter = Meter()
    batches = Prefetch(lambda step: time.sleep(0.1), range(3))
    for step in range(3):
        batches.next(step, meter)
    batches.close()
    assert meter.waited > 0.2
