"""The page of benchmarks/spot.py: what is drawn from kept cells, and that cells run once."""

import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
spot = importlib.import_module("spot")
table = importlib.import_module("spot_table")
sys.path.pop(0)

TASKS = (
    spot.Task("near", "near"),
    spot.Task("mid", "mid"),
    spot.Task("far", "far"),
    spot.Task("aim", "aim", (), "test", ("near",), ("far", "mid")),
)


def line(row: str, column: str, seed: int, value: float, near: float | None = None) -> dict:
    """A kept cell."""
    told = {"row": row, "column": column, "seed": seed, "value": value, "digest": "abc"}
    more = {"date": "2030-01-02T03:04:05", "seconds": 9.0, "best_step": 100}
    return told | more | ({} if near is None else {"similarity": {"pairs": near, "means": -near}})


def test_the_page_says_gains_similarities_and_what_was_expected(tmp_path: Path) -> None:
    kept = [line("source", name, 0, 70.0) for name in ("near", "mid", "far")]
    for seed, base in enumerate((50.0, 52.0)):
        kept.append(line("vocabulary", "aim", seed, base))
        for name, gain, near in (("near", 9.0, 0.9), ("mid", 5.0, 0.5), ("far", -1.0, 0.1)):
            kept.append(line(name, "aim", seed, base + gain + seed, near))
    table.draw(TASKS, TASKS[3:], kept, "spot.py", tmp_path / "spot.md")
    page = (tmp_path / "spot.md").read_text()
    assert "| vocabulary, the score | 51.0 ± 1.4 |" in page
    assert "| from near, points more | +9.5 ± 0.7 |" in page
    assert "| near | 0.900 / -0.900 |" in page
    assert "| Spearman of pairs with the gain | +1.00 |" in page
    assert "over all 3 pairs of source and target: means -1.00, pairs +1.00." in page
    assert "| aim | near | helps | +9.5 ± 0.7 | yes |" in page
    assert "| aim | far | does not | -0.5 ± 0.7 | yes |" in page
    assert "| aim | mid | does not | +5.5 ± 0.7 | no |" in page
    for name in ("gains", "similarity"):
        assert f"(spot_{name}.png)" in page
        assert (tmp_path / f"spot_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_one_seed_proves_nothing() -> None:
    assert table.verdict([3.0], float("nan"), True) == "one seed"


def test_a_page_without_cells(tmp_path: Path) -> None:
    table.draw(TASKS, TASKS[3:], [], "spot.py", tmp_path / "spot.md")
    assert "No target is finished yet" in (tmp_path / "spot.md").read_text()


@pytest.mark.slow
def test_cells_are_run_once(tiny: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """One source and one target of the tiny backbone, then again with nothing left to do."""
    task = f"{tiny}/toy.train.jsonl"
    aim = spot.Task("aim", task, (), "validation")
    monkeypatch.setattr(spot, "TASKS", (spot.Task("toy", task), aim))
    monkeypatch.setattr(spot, "TARGETS", (aim,))
    monkeypatch.setattr(spot, "EARLY", 1)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    small = [
        f"BACKBONE='files:{tiny}/backbone'",
        "INPUT_LENGTH=28",
        "TARGET_LENGTH=4",
        "PROMPT_LENGTH=2",
        "SoftPrompt.decoder_length=1",
        "Evaluation.mode=generate",
        "TRAIN_STEPS=2",
        "EVAL_PERIOD=2",
        "CHECKPOINT_PERIOD=1",
        "BATCH_SIZE=8",
        "Checkpoints.keep_period=1",
        "Evaluation.max_examples=8",
    ]
    monkeypatch.setattr(spot, "SOURCE", tuple(small))
    monkeypatch.setattr(spot, "TARGET", (*small, "BEST_METRIC=None"))
    gin = f"--gin={small[0]}"
    asked = [gin, "--seeds=0", f"--library={tmp_path}/library", f"--output={tmp_path}/b"]
    assert spot.main(asked) == 0
    assert capsys.readouterr().out.count(", seed 0: ") == 3
    lines = [json.loads(text) for text in (tmp_path / "b.jsonl").read_text().splitlines()]
    rows = {(x["row"], x["column"]) for x in lines}
    assert rows == {("source", "toy"), ("vocabulary", "aim"), ("toy", "aim")}  # aim is no source
    near = next(x for x in lines if x["row"] == "toy")["similarity"]
    assert -1.0 <= near["pairs"] <= 1.0 and -1.0 <= near["means"] <= 1.0
    assert spot.main(asked) == 0
    assert capsys.readouterr().out == f"{tmp_path}/b.md\n"
    (tmp_path / "library" / "toy" / "entry.json").unlink()
    assert spot.main(asked) == 0
    assert "toy from source" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--targets=sst9"], "no 'sst9'; there are"), (["--seeds=a"], "give different whole numbers")],
)
def test_a_wrong_argument_is_one_line(capsys, tmp_path, arguments, part) -> None:
    assert spot.main([*arguments, f"--output={tmp_path}/b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spot: error: ") and error.count("\n") == 1
    assert part in error


def test_every_task_is_registered() -> None:
    from prompt_jax.tasks.text import get_task

    spot.register_tasks()
    for task in spot.TASKS:
        needed = {"train", "validation"} | ({task.scored} if task.scored else set())
        assert needed <= set(get_task(task.task).splits), task.name
    assert sum(task.scored is not None for task in spot.TASKS) == 3
    assert len(spot.TASKS) >= 7
