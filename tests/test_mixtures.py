"""Mixtures named by their members."""

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks.mixtures import mixture_name
from prompt_jax.tasks.text import get_task, load_examples, mixture_rates


def test_rates_are_the_examples_of_each_task_up_to_the_cap() -> None:
    rows = {name: len(load_examples(name, "train")[name]) for name in ("empath_topic", "cldr_kind")}
    assert min(rows.values()) < 1000 < max(rows.values())
    assert mixture_rates("cldr_kind+empath_topic") == rows
    capped = {name: min(n, 1000) for name, n in rows.items()}
    assert mixture_rates("cldr_kind+empath_topic?cap=1000") == capped
    assert get_task("cldr_kind+empath_topic") is get_task("cldr_kind+empath_topic")


def test_files_are_members_too(tmp_path) -> None:
    for name, count in (("a", 2), ("b", 3)):
        lines = [f'{{"inputs": "{name} {n}", "targets": "x"}}\n' for n in range(count)]
        for split in ("train", "validation"):
            (tmp_path / f"{name}.{split}.jsonl").write_text("".join(lines))
    mixture = f"{tmp_path}/a.train.jsonl+{tmp_path}/b.train.jsonl"
    assert get_task(mixture) is get_task(mixture)
    assert sorted(mixture_rates(mixture).values()) == [2.0, 3.0]


def test_names() -> None:
    assert mixture_name(["a", "b+a?cap=9"], cap=7) == "a+b?cap=7"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empath_topic+", "task '': no such task"),
        (
            "empath_topic+cldr_kint",
            "task 'cldr_kint': no such task; did you mean cldr_kind",
        ),
        ("empath_topic+cldr_kind?cap=0", r"after \? only cap=N is known, with N at least 1"),
        ("empath_topic+cldr_kind?size=9", r"after \? only cap=N"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_task(name)
