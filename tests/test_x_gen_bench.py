"""benchmarks/x_gen.py: what the page says of kept seeds, and that a seed is run once."""

import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
x_gen = importlib.import_module("x_gen")
sys.path.pop(0)


def metrics(hi: float, tr: float) -> dict[str, float]:
    both = {"cldr_name_currency_hi/accuracy": hi, "cldr_name_currency_tr/accuracy": tr}
    return {"accuracy": (hi + tr) / 2, **both}


def test_a_seed_is_run_once_and_drawn_beside_its_control(tmp_path: Path, monkeypatch) -> None:
    runs = []

    def scored(run, operative):
        runs.append(run.seed)
        return [metrics(90.0 + run.seed, 30.0), *[metrics(40.0, 10.0 * run.seed)] * 3]

    monkeypatch.setattr(x_gen, "scored", scored)
    command = [f"--output={tmp_path}/b", "--seeds=0,2"]
    assert x_gen.main(command) == 0
    assert x_gen.main(command) == 0
    assert runs == [0, 2]
    page = (tmp_path / "b.md").read_text()
    assert "| | hi | tr | mean |" in page
    assert "| the pair's own rows | 91.0 ± 1.4 | 30.0 ± 0.0 | 60.5 ± 0.7 |" in page
    assert "| the mean of all rows (the control) | 40.0 ± 0.0 | 10.0 ± 14.1 |" in page
    assert x_gen.main([*command, "--gin=LEARNING_RATE=0.1"]) == 0
    assert runs == [0, 2, 0, 2]


def test_a_wrong_seed_is_one_line(tmp_path: Path, capsys) -> None:
    assert x_gen.main([f"--output={tmp_path}/b", "--seeds=one"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("x_gen: error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_the_four_prompts_of_a_run_are_scored(tmp_path: Path) -> None:
    small = ("TRAIN_STEPS=1", "Evaluation.max_examples=4", "BATCH_SIZE=8")
    command = [f"--output={tmp_path}/b", "--seeds=0", *(f"--gin={binding}" for binding in small)]
    assert x_gen.main(command) == 0
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert {line["row"] for line in lines} == set(x_gen.WAYS)
    languages = {name.split("/")[0][-2:] for line in lines for name in line["metrics"]} - {"cy"}
    assert languages == {"hi", "tr", "vi"}
