"""The scoreboard: cells are run once, kept as lines, run anew when stale, and drawn."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
scoreboard = importlib.import_module("scoreboard")
table = importlib.import_module("scoreboard_table")
GENERATE = ("Evaluation.mode=generate",)
sys.path.pop(0)


@pytest.fixture
def board(tiny: Path, tmp_path: Path, monkeypatch):
    """Runs the scoreboard of one small task on the tiny backbone: (exit code, its lines)."""
    task = f"{tiny}/toy.train.jsonl"
    small = ("INPUT_LENGTH=28", "BATCH_SIZE=8", "PROMPT_LENGTH=2", "TRAIN_STEPS=1")
    column = scoreboard.Column("toy", task, "accuracy", bindings=GENERATE, labels=False)
    monkeypatch.setattr(scoreboard, "COLUMNS", (column,))
    monkeypatch.setattr(scoreboard, "SEEDS", (0,))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))

    def run(*arguments: str) -> tuple[int, list[dict]]:
        gin = [f"--gin={binding}" for binding in small]
        backbone = f"--backbone=nano=files:{tiny}/backbone"
        code = scoreboard.main([backbone, f"--output={tmp_path}/b", *gin, *arguments])
        lines = tmp_path / "b.jsonl"
        text = lines.read_text() if lines.exists() else ""
        return code, [json.loads(line) for line in text.splitlines()]

    return run


@pytest.mark.slow
def test_cells_are_run_once_and_anew_when_they_are_stale(board, tmp_path: Path, capsys) -> None:
    rows = "--rows=majority,zero_shot,prompt"
    code, lines = board(rows)
    assert code == 0
    assert [x["row"] for x in lines] == ["majority", "prompt", "zero_shot"]
    assert [x["steps"] for x in lines] == [0, 1, 0]
    assert lines[0]["value"] == 50.0  # of "a" and "b"
    assert lines[1]["command"].startswith("prompt-jax train --gin_file=runs/scoreboard_lester.gin")
    page = (tmp_path / "b.md").read_text()
    assert "| always the commonest answer | - | 50.0 |" in page
    assert lines[0]["digest"][:12] in page
    capsys.readouterr()
    assert board(rows) == (0, lines)
    assert capsys.readouterr().out.count(" is kept\n") == 3
    for name in ("digest", "recipe"):
        stale = [{**lines[0], name: "another", "value": 1.0}, *lines[1:]]
        (tmp_path / "b.jsonl").write_text("".join(json.dumps(x) + "\n" for x in stale))
        board(rows, "--draw")
        drawn = (tmp_path / "b.md").read_text()
        assert "| always the commonest answer | - | - |" in drawn  # what is stale is left out
        again = board(rows)[1]
        assert [x["value"] for x in again] == [x["value"] for x in lines]
        assert again[1:] == lines[1:]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--columns=sst9"], "--columns=sst9: no 'sst9'; there are toy"),
        (["--rows=lola"], "--rows=lola: no 'lola'; there are majority"),
        (["--columns="], "--columns=: no ''; there are toy"),
        (["--backbone=nano"], "--backbone=nano: give NAME=STRING, NAME of nano"),
        (["--backbone=nani=nano"], "--backbone=nani=nano: give NAME=STRING"),
        (["--backbone=nano=files:/no/such"], "/no/such"),
        (["--output=docs/scoreboard"], "other cells than those of docs/scoreboard; give --output"),
        (["--data_dir=/no/such"], "--data_dir=/no/such: no such folder"),
    ],
)
def test_a_wrong_argument_is_one_line(board, capsys, arguments: list[str], part: str) -> None:
    assert board(*arguments) == (2, [])
    error = capsys.readouterr().err
    assert error.startswith("scoreboard: error: ") and error.count("\n") == 1
    assert part in error


def test_a_set_that_is_not_at_hand_is_named(board, capsys, tmp_path, monkeypatch) -> None:
    column = scoreboard.Column("sst2", "glue_sst2", "accuracy")
    monkeypatch.setattr(scoreboard, "COLUMNS", (column,))
    assert board(f"--data_dir={tmp_path}") == (2, [])
    assert "column sst2: no train of glue_sst2 is at hand" in capsys.readouterr().err


def test_a_column_without_its_backbone_is_left_out(board, capsys, monkeypatch) -> None:
    toy = scoreboard.COLUMNS[0]
    column = dataclasses.replace(toy, name="gone", backbone="files:/no/such")
    monkeypatch.setattr(scoreboard, "COLUMNS", (toy, column))
    code, lines = board("--rows=majority")
    assert (code, [line["column"] for line in lines]) == (0, ["toy"])
    assert "column gone is left out: " in capsys.readouterr().err


def line(row: str, column: str, seed: int, value: float, **more) -> dict:
    """A kept cell."""
    facts = {"date": "2030-01-02T03:04:05", "versions": {"jax": "1"}, "training_seconds": 9.0}
    told = {"row": row, "column": column, "seed": seed, "value": value, "metrics": {}, "steps": 9}
    return {**told, **facts, "backbone": "nano", "digest": "abc", **more}


def test_the_page_says_what_the_prompt_is_worth() -> None:
    column = scoreboard.Column("trec", "trec", "accuracy")
    kept = [line("majority", "trec", 0, 20.0)]
    for row, at in (("prompt", 50.0), ("full", 80.0), ("prompt_random", 25.0)):
        kept += [line(row, "trec", seed, at + step) for seed, step in enumerate((-2.0, 0.0, 2.0))]
    page = table.draw(scoreboard.ROWS, (column,), kept, "make scoreboard")
    assert "| prompt (Lester et al. 2021), and ten decoder rows | 9 | 50.0 ± 2.0 |" in page
    assert "| the frozen backbone, no prompt | - | - |" in page
    assert "Of 10 that train 0 took more than a minute" in page
    assert "| trec | +30.0 | +25.0 | 2.0 | 50 % |" in page
    assert "`make scoreboard`" in page and "2030-01-02" in page


def test_the_page_has_a_table_of_languages() -> None:
    column = scoreboard.Column("far", "xx", "accuracy", scored="xx_all", classification=False)
    metrics = {"accuracy": 60.0, "xx_de/accuracy": 70.0, "xx_fr/accuracy": 50.0, "xx_fr/f1": 1.0}
    kept = [line(row, "far", 0, 60.0, metrics=metrics) for row in ("majority", "prompt")]
    page = table.draw(scoreboard.ROWS, (column,), kept, "c")
    assert "| far | de | fr |\n|---|---|---|\n" in page
    assert "| prompt (Lester et al. 2021), and ten decoder rows | 70.0 | 50.0 |\n" in page


def test_a_row_is_run_in_its_own_columns_and_changes_its_recipe() -> None:
    columns = [c for c in scoreboard.COLUMNS if c.name in ("trec", "emoji_other_languages")]
    cells = scoreboard.cells_of(scoreboard.ROWS, columns, [0])
    (suffix,) = [cell for cell in cells if cell.row.name == "suffix_rows_10"]
    assert suffix.column.name == "emoji_other_languages"
    bound = scoreboard.bindings_of(suffix, "mnano", ["SEED=7"])
    assert bound[-2:] == ["PROMPT_LENGTH=10", "SEED=7"]


def test_the_page_says_what_a_row_takes() -> None:
    column = scoreboard.Column("trec", "trec", "accuracy")
    more = {"trainable": 3840, "artefact_bytes": 16697, "steps": 600}
    kept = [line(row, "trec", 0, 50.0, **more) for row in ("prompt", "prompt_random")]
    page = table.draw(scoreboard.ROWS, (column,), [*kept, line("full", "trec", 0, 80.0)], "c")
    assert (
        "| prompt (Lester et al. 2021), and ten decoder rows | 3,840 | 17 kB | 600 | 15 ms | trec |"
        in page
    )
    assert page.count("3,840") == 1
    assert "trained parameters" not in table.draw(scoreboard.ROWS, (column,), kept[:0], "c")


def test_one_seed_has_no_spread() -> None:
    column = scoreboard.Column("trec", "trec", "accuracy")
    rows = {"majority": 20.0, "prompt": 50.0, "full": 80.0, "prompt_random": 25.0}
    kept = [line(row, "trec", 0, value) for row, value in rows.items()]
    page = table.draw(scoreboard.ROWS, (column,), kept, "c")
    assert "| trec | +30.0 | +25.0 | - | 50 % |" in page
    part = table.draw(scoreboard.ROWS, (column,), kept[:-1], "c")
    assert "| trec | +30.0 | - | - | 50 % |" in part


def test_fewer_seeds_than_there_should_be_are_told():
    column = scoreboard.Column("trec", "trec", "accuracy")
    kept = [line("prompt", "trec", seed, 50.0 + seed) for seed in (0, 1)]
    assert "| 9 | 50.5 ± 0.7 (2) |" in table.draw(scoreboard.ROWS, (column,), kept, "c")


def test_a_board_without_cells_says_so() -> None:
    assert "No cell is finished yet" in table.draw(scoreboard.ROWS, scoreboard.COLUMNS, [], "c")


def test_every_column_and_row_is_registered() -> None:
    from prompt_jax.tasks.text import get_task

    for column in scoreboard.COLUMNS:
        assert set(column.splits[:1]) <= set(get_task(column.task).splits), column.name
    assert sum(column.quick for column in scoreboard.COLUMNS) == 4
    assert len({row.name for row in scoreboard.ROWS}) == len(scoreboard.ROWS)


@pytest.mark.slow
def test_every_cell_has_a_recipe_that_loads():
    for row in scoreboard.ROWS:
        for column in scoreboard.COLUMNS:
            cell = scoreboard.Cell(row, column, 0)
            scoreboard.load(cell, scoreboard.bindings_of(cell, cell.backbone, []))


def test_seeds_are_those_of_the_board(capsys, tmp_path):
    assert scoreboard.main(["--draw", f"--output={tmp_path}/b", "--seeds=9"]) == 2
    assert capsys.readouterr().err == "scoreboard: error: --seeds=9: no 9; there are (0, 1, 2)\n"
