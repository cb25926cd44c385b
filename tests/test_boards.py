"""The boards of `benchmarks/boards.py`: their rules, their one test, their pages."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from prompt_jax.data.slices import sliced
from prompt_jax.recipe import config

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
boards = importlib.import_module("boards")
boards_page = importlib.import_module("boards_page")
rows = importlib.import_module("boards_rows")
sys.path.pop(0)
COLUMNS, RATES, ROWS = rows.COLUMNS, rows.RATES, rows.ROWS
TRAINED = [row for row in ROWS if row.kind in ("trained", "alone")]


def test_no_row_changes_what_all_have_in_common():
    own = re.compile(r"(LEARNING_RATE|TRAIN_STEPS|BATCH_SIZE|EVAL_PERIOD|SEED|Data\.|Evaluation\.)")
    assert not [word for row in ROWS for word in row.bindings if own.match(word)]


def test_every_claim_has_its_control():
    names = {row.name for row in ROWS}
    claims = [row for row in ROWS if row.control]
    assert claims and all(row.control in names and row.claim for row in claims)
    assert all(row.rate_of in names for row in ROWS if row.kind == "staged")


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_what_is_trained_chosen_and_scored_shares_no_row(column):
    trained, chosen, scored = map(sliced, column.splits)
    assert trained[0] == chosen[0] != scored[0] and scored[1] is None
    assert trained[1] == (None, chosen[1].start) and chosen[1].end is None


@pytest.mark.parametrize("row", TRAINED, ids=lambda row: row.name)
def test_every_row_is_a_recipe_that_sees_as_many_examples_in_an_update(row, tmp_path):
    cell = boards.Cell(row, COLUMNS[0], tmp_path, None)
    files = ["board.gin", row.recipe]
    run = config.load("Train", files, [*cell.bindings(), f"LEARNING_RATE={RATES[0]}"]).root
    assert (run.data.batch_size, run.data.packed, run.steps) == (16, False, 400)
    assert run.optimizer.schedule.learning_rate == RATES[0]
    assert run.best_metric == ("accuracy", "max")


def test_a_difference_of_nothing_is_none_and_a_great_one_is_sure():
    rng = np.random.default_rng(0)
    right = (rng.random((3, 200)) < 0.6).astype(float)
    same = boards_page.compared(right, right)
    assert same == (0, 0, 0, 1)
    wrong = right * (rng.random((3, 200)) < 0.7)
    found = boards_page.compared(right, wrong)
    assert found.difference == pytest.approx(100 * (right.mean() - wrong.mean()))
    assert found.low < found.difference < found.high and found.low > 0
    assert found.p == pytest.approx(2 / (boards_page.RESAMPLES + 1))


def test_what_has_no_seeds_is_the_same_under_each():
    right, bare = np.ones((3, 50)), np.zeros((1, 50))
    assert boards_page.compared(right, bare).difference == 100


def test_the_interval_holds_the_spread_of_seeds():
    seeds = np.repeat([[0.0], [1.0], [1.0]], 400, axis=1)
    low, high = boards_page.interval(seeds)
    assert low < 20 and high == 100


def line(row, right, **more):
    facts = {"column": "trec", "date": "2026-11-28", "commit": "abc", "seconds": 60}
    return {"row": row, **facts, "commands": ["prompt-jax train"], "right": right, **more}


def test_the_page_says_where_a_rate_lies_at_the_edge_and_a_curve_still_rises():
    rising = [[100, 50.0], [200, 60.0], [300, 70.0]]
    flat = [[100, 70.0], [200, 70.0], [300, 70.5]]
    more = {"rate": RATES[-1], "chosen": [70.0], "trained": 2560}
    lines = {
        "prompt": line("prompt", ["1101"] * 3, curves=[rising], **more),
        "dept": line("dept", ["1100"] * 3, curves=[flat], **{**more, "rate": 0.02}),
    }
    page = boards_page.page(COLUMNS[0], lines)
    (prompt,) = [row for row in page.splitlines() if row.startswith("| prompt (Lester")]
    assert "| 0.5 > |" in prompt and "75.0 ± 0.0 ^" in prompt
    (dept,) = [row for row in page.splitlines() if "DePT" in row and "2,560" in row]
    assert "| 0.02 |" in dept and "^" not in dept
    assert "-25.0" in page and "an offset of the text for eight rows" in page
