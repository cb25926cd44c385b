"""Parts of a split, as TensorFlow Datasets writes them."""

import json

import pytest

from prompt_jax.data.split import Sampling, Split
from prompt_jax.errors import UserError


@pytest.fixture
def task(tmp_path):
    rows = [{"inputs": f"row {n}", "targets": "ab"[n % 2]} for n in range(10)]
    for split in ("train", "validation"):
        file = tmp_path / f"letters.{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "letters.train.jsonl")


def numbers(task, split, **sampling):
    (rows,) = Split(task, split, (8, 8), Sampling(**sampling)).examples().values()
    return [int(row["inputs"].split()[1]) for row in rows]


@pytest.mark.parametrize(
    "part, expected",
    [
        ("[:3]", [0, 1, 2]),
        ("[8:]", [8, 9]),
        ("[-2:]", [8, 9]),
        ("[:-8]", [0, 1]),
        ("[:20%]", [0, 1]),
        ("[-15%:]", [8, 9]),
        ("[20%:4]", [2, 3]),
        ("[:]", list(range(10))),
    ],
)
def test_a_part_has_the_examples_that_it_names(task, part, expected):
    assert numbers(task, f"train{part}") == expected


def test_a_part_is_sampled_as_a_split_is(task):
    assert set(numbers(task, "train[:4]", examples_per_class=1)) <= set(range(4))


def test_parts_of_a_split_share_no_example(task):
    assert not set(numbers(task, "train[:-3]")) & set(numbers(task, "train[-3:]"))


@pytest.mark.parametrize("split", ["train[3]", "train[a:]", "[:3]", "train[:3", "train[:3]x"])
def test_other_brackets_are_refused(task, split):
    with pytest.raises(UserError, match=r"train\[:500\]"):
        numbers(task, split)


def test_a_part_without_examples_is_refused(task):
    with pytest.raises(UserError, match="has no examples"):
        numbers(task, "train[50:]")


def test_a_part_of_a_split_that_is_not_there_names_the_split(task):
    with pytest.raises(UserError, match="'dev'"):
        numbers(task, "dev[:3]")
