"""benchmarks/promot.py: what the page says of kept cells, and that cells run once."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from prompt_jax.backbone.load import load_backbone
from prompt_jax.data.split import Sampling, Split
from prompt_jax.evaluate.evaluation import Evaluation
from prompt_jax.evaluate.prompts import model_of
from prompt_jax.methods.base import FixedPrompt
from prompt_jax.model.sharding import MeshShape
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.prompt.stack import PromptStack

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
promot = importlib.import_module("promot")
table = importlib.import_module("promot_table")
tasks = importlib.import_module("promot_tasks")
sys.path.pop(0)

OTHERS = (tasks.Untouched("one", "first", list), tasks.Untouched("two", "second", list))
AIM = promot.Target("aim", "aim_task")


def mark(step: int, target: float, one: float, two: float, **more: float) -> dict:
    others = {"promot_one/accuracy": one, "promot_two/accuracy": two}
    return {"step": step, "accuracy": target, **others, **more}


def line(row: str, seed: int, *marks: dict, **more) -> dict:
    """A kept cell."""
    told = {"row": row, "column": "aim", "seed": seed, "marks": list(marks), "digest": "abc"}
    return told | {"date": "2030-01-02T03:04:05", "seconds": 9.0} | more


BARE = line(
    "backbone",
    0,
    mark(0, 0.0, 80.0, 60.0),
    chance={"promot_one": 50.0, "promot_two": 51.5},
    examples={"promot_one": 300, "promot_two": 200},
)


def test_the_page_compares_both_at_the_same_score_of_the_target() -> None:
    kept = [BARE]
    for seed in (0, 1):
        plain = [mark(0, 0, 80, 60), mark(10, 40 + seed, 70, 50), mark(20, 50, 60, 40)]
        ours = [
            mark(s, t, o, 58.0, without_prompt=3.0)
            for s, t, o in ((0, 30, 80), (10, 41, 79), (20, 40, 78))
        ]
        kept += [line("prompt", seed, mark(100, 30, 80, 60)), line("full", seed, *plain)]
        kept.append(line("promot", seed, *ours))
        for row, at in (("full_gradient", 0.9), ("promot_gradient", 0.5)):
            steps = [{"step": step, "cosines": [at - 0.2 * seed, at]} for step in (0, 400)]
            kept.append({**line(row, seed), "gradients": steps})
    page = table.draw((AIM,), OTHERS, kept, "make it")
    assert "`make it` from 11 cells" in page
    assert "| one: first | 300 | 50.0 | 80.0 |" in page
    assert "| nano | | | | 80.0 | 60.0 | 70.0 |" in page
    fine = "| plain fine-tuning | 20, 20 | 50.0 ± 0.0 | - | 60.0 ± 0.0 | 40.0 ± 0.0 | 50.0 ± 0.0 |"
    assert fine in page
    assert "| ProMoT | 10, 10 | 41.0 ± 0.0 | 3.0 ± 0.0 | 79.0 ± 0.0 |" in page
    assert "| 0 | 41.0 | 20, 50.0, 50.0 | 10, 41.0, 68.5 | +18.5 |" in page
    assert "| 1 | 41.0 | 10, 41.0, 60.0 | 10, 41.0, 68.5 | +8.5 |" in page
    assert "keeps of untouched tasks: +13.5 ± 7.1." in page
    assert "| 400 | 0.85 ± 0.07 | 0.45 ± 0.07 |" in page
    assert "| 10 | 40.5 ± 0.7 | 60.0 ± 0.0 | 41.0 ± 0.0 | 68.5 ± 0.0 |" in page


def test_a_page_without_cells() -> None:
    assert "No target is finished yet" in table.draw((AIM,), OTHERS, [BARE], "c")


def test_chance_is_the_commonest_answer_or_a_draw() -> None:
    plain = [{"inputs": "x", "targets": t} for t in ("a", "a", "a", "b")]
    assert tasks.chance(plain) == 75.0
    listed = [{"inputs": f"choose options: {x} text: y", "targets": x[0]} for x in ("a, b", "c, d")]
    assert tasks.chance(listed) == 50.0


def test_the_prompt_is_dropped(tiny) -> None:
    """Answers of a prompted model without its prompt are those of the bare one."""
    backbone, mesh = load_backbone(f"files:{tiny}/backbone", "float32"), MeshShape().build()
    rows = np.ones((4, backbone.config.emb_dim), np.float32)
    manifest = {"placement": "prefix", "visibility": {"input": True, "prompt": "all"}}
    stack = PromptStack([Prompt({"encoder": rows}, manifest, "")])
    split = Split(f"{tiny}/toy.train.jsonl", "train", (28, 4), Sampling(max_examples=8))

    def scores(model, rows: int) -> list[float]:
        layout = PromptLayout(encoder=rows)
        scorer = Evaluation(split).read().open(backbone.vocabulary, layout, 0, mesh)
        return [answer.score for answer in scorer.answer(model)[0]]

    modules = (FixedPrompt(stack.bundle()), FixedPrompt())
    prompted, bare = (model_of(backbone, module, mesh) for module in modules)
    assert scores(promot.without_prompt(*prompted), 0) == scores(bare, 0)
    assert scores(prompted, 4) != scores(bare, 0)


@pytest.mark.slow
def test_cells_are_run_once(tiny, tmp_path, monkeypatch, capsys) -> None:
    """Every cell of one target on the tiny backbone, then again with nothing left to do."""
    rows = [json.loads(x) for x in (tiny / "toy.validation.jsonl").read_text().splitlines()]
    few = [{key: row[key] for key in ("inputs", "targets")} for row in rows[:8]]
    toys = tuple(tasks.Untouched(name, "the target itself", lambda: few) for name in ("t1", "t2"))
    monkeypatch.setattr(tasks, "UNTOUCHED", toys)
    monkeypatch.setattr(tasks, "MIXTURE", "promot_toy_mixture")
    aim = promot.Target("aim", f"{tiny}/toy.train.jsonl")
    monkeypatch.setattr(promot, "TARGETS", (aim,))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    small = (
        "INPUT_LENGTH=28",
        "TARGET_LENGTH=4",
        "BATCH_SIZE=8",
        "TRAIN_STEPS=2",
        "EVAL_PERIOD=1",
        "CHECKPOINT_PERIOD=1",
        "Evaluation.max_examples=8",
        "Data.packed=False",
    )
    monkeypatch.setattr(promot, "SHARED", small)
    monkeypatch.setattr(promot, "GRADIENT_STEPS", (0, 1))
    monkeypatch.setattr(promot, "PROMPT", ("PROMPT_LENGTH=4", "PROMPT_STEPS=1"))
    asked = [
        f"--gin=BACKBONE='files:{tiny}/backbone'",
        "--seeds=0",
        f"--output={tmp_path}/b",
        f"--library={tmp_path}/library",
    ]
    assert promot.main(asked) == 0
    assert capsys.readouterr().out.count(", seed 0: ") == 6
    lines = [json.loads(text) for text in (tmp_path / "b.jsonl").read_text().splitlines()]
    by_row = {x["row"]: x.get("marks") for x in lines}
    assert [m["step"] for m in by_row["promot"]] == [0, 1, 2] == [m["step"] for m in by_row["full"]]
    for row in ("promot", "full"):
        names = {"accuracy", "promot_t1/accuracy", "promot_t2/accuracy"} - by_row[row][0].keys()
        assert not names
    assert ["without_prompt" in by_row[row][0] for row in ("promot", "full")] == [True, False]
    assert promot.main(asked) == 0
    assert capsys.readouterr().out == f"{tmp_path}/b.md\n"


def test_a_wrong_argument_is_one_line(capsys, tmp_path) -> None:
    assert promot.main(["--targets=sst9", f"--output={tmp_path}/b"]) == 2
    assert capsys.readouterr().err == (
        "promot: error: --targets=sst9: no 'sst9'; there are empath_topic, trec\n"
    )
