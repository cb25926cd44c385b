"""k-shot samples: balanced, repeatable, nested, and refused where there is too little."""

import pytest

from prompt_jax.data.source import Data
from prompt_jax.errors import UserError

EXAMPLES = [{"inputs": str(i), "targets": "abb"[i % 3]} for i in range(60)]


def sample(task="t", examples=EXAMPLES, **changes) -> list[int]:
    data = Data(task="t", input_length=8, target_length=2, batch_size=1, **changes)
    return [int(e["inputs"]) for e in data.examples.sampling.of(task, examples)]


def test_every_class_has_k():
    kept = sample(examples_per_class=4)
    assert len(kept) == 8
    assert sum(i % 3 == 0 for i in kept) == 4
    assert kept == sorted(kept)


def test_a_seed_and_a_task_decide_the_sample():
    assert sample(examples_per_class=4) == sample(examples_per_class=4)
    assert sample(examples_per_class=4) != sample(examples_per_class=4, sample_seed=1)
    assert sample(examples_per_class=4) != sample("u", examples_per_class=4)
    assert sample(sampled_examples=4) != sample(sampled_examples=4, sample_seed=1)


@pytest.mark.parametrize("name", ["examples_per_class", "sampled_examples"])
def test_a_smaller_sample_is_part_of_a_larger_one(name):
    assert set(sample(**{name: 3})) < set(sample(**{name: 9}))


def test_without_classes_the_number_is_that_of_all():
    assert len(sample(sampled_examples=7)) == 7
    assert sample() == list(range(60))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples_per_class": 21}, "task 't' has 20 of 'a'; give fewer"),
        ({"sampled_examples": 61}, "task 't' has 60; give fewer"),
        ({"examples_per_class": 0}, "Data.examples_per_class = 0: give at least 1"),
        ({"examples_per_class": 1, "sampled_examples": 1}, "leave one out"),
        ({"sample_seed": -1}, "Data.sample_seed = -1"),
    ],
)
def test_what_cannot_be_sampled_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        sample(**changes)
