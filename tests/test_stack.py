"""Prompts of different kinds in the same batches, each row answered as with its prompt alone."""

import json
from pathlib import Path

import pytest

from prompt_jax.answer.answerer import Answering
from prompt_jax.cli.main import main
from prompt_jax.evaluate.opening import opening
from prompt_jax.evaluate.prompts import evaluate_prompts, together
from prompt_jax.model.bundle import Visibility
from prompt_jax.prompt.artefact import load_prompt


@pytest.fixture(scope="module")
def saved(kinds: dict[str, str]) -> list[str]:
    return list(kinds.values())


def answers(tiny: Path, prompts: list[str], how: Answering) -> list[dict]:
    _, rows = evaluate_prompts(
        opening(
            f"files:{tiny}/backbone", prompts, input_length=28, target_length=4, dtype="float32"
        ),
        str(tiny / "toy.train.jsonl"),
        "validation",
        batch_size=16,
        max_examples=6,
        answering=how,
    )
    return rows


@pytest.mark.parametrize(
    "how",
    [Answering(), pytest.param(Answering(beams=2), marks=pytest.mark.slow)],
    ids=["greedy", "beams"],
)
def test_every_kind_answers_as_if_alone(tiny: Path, saved: list[str], how: Answering) -> None:
    mixed = answers(tiny, saved, how)
    by_prompt = {p: [row for row in mixed if row["prompt"] == p] for p in saved}
    seen = set()
    for path in saved:
        alone = answers(tiny, [path], how)
        assert len(by_prompt[path]) == len(alone) == 6
        for row, other in zip(by_prompt[path], alone, strict=True):
            assert row["prediction"] == other["prediction"], path
            assert row["score"] == pytest.approx(other["score"], abs=1e-5), path
        seen.add(tuple(row["score"] for row in alone))
    assert len(seen) == len(saved), "every prompt says something of its own"


def test_the_command_answers_each_kind_as_if_alone(tiny, kinds, tmp_path) -> None:
    """`eval` with a prefix, a LoRA, (IA)3 and a plain prompt: outputs, scores and metrics."""
    paths = [kinds[name] for name in ("prefix", "lora", "ia3", "plain")]
    ask = [
        "eval",
        f"--backbone=files:{tiny}/backbone",
        f"--task={tiny}/toy.train.jsonl",
        "--split=validation",
        "--batch_size=16",
        "--max_examples=6",
        "--input_length=28",
        "--target_length=4",
        "--dtype=float32",
        f"--predictions={tmp_path}/p.jsonl",
    ]

    def rows(*prompts: str) -> list[dict]:
        assert main([*ask, *(f"--prompt={path}" for path in prompts)]) == 0
        return [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]

    mixed = rows(*paths)
    for path in paths:
        own, alone = [row for row in mixed if row["prompt"] == path], rows(path)
        assert [row["prediction"] for row in own] == [row["prediction"] for row in alone]
        assert [row["score"] for row in own] == pytest.approx([r["score"] for r in alone], abs=1e-5)


def test_kinds_share_a_batch_and_visibilities_do_not(saved: list[str]) -> None:
    prompts = [load_prompt(path) for path in saved]
    assert together(prompts) == [list(range(len(saved)))]
    policy = {"input": False, "prompt": "all"}
    other = type(prompts[0])(prompts[4].arrays, {**prompts[4].manifest, "visibility": policy}, "p")
    assert other.visibility == Visibility(input=False)
    assert together([*prompts[:2], other]) == [[0, 1], [2]]
