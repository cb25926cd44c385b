"""`prompt-jax bench`: reports of the agreed form, in seconds on nano."""

import dataclasses
import json

import numpy as np
import pytest

from prompt_jax.bench import cases
from prompt_jax.bench.lengths import MIXTURE, TASKS, examples_of
from prompt_jax.bench.measure import Row
from prompt_jax.bench.settings import Bench
from prompt_jax.cli.main import main
from prompt_jax.data.packing import row_length
from prompt_jax.data.source import Data, TaskBatches
from prompt_jax.errors import UserError
from prompt_jax.prompt.layout import PromptLayout

FIELDS = ["case", "ratio", "spread", "ours", "theirs", "unit"]


@pytest.mark.slow
def test_tasks_compares_a_prompt_computed_once_with_one_beside_each_example(capsys):
    arguments = ["--size=nano", "--prompt=64", "--columns=512", "--rounds=3", "--tasks=wic"]
    assert main(["bench", "tasks", *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["bench", "machine", "versions", "rows"]
    (row,) = report["rows"]
    assert list(row) == FIELDS and row["unit"] == "examples/s"
    assert row["case"] == "wic: computed once / beside each example"
    assert row["ratio"] > 1 and row["ours"] > row["theirs"] > 0
    assert row["spread"][0] <= row["ratio"] <= row["spread"][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in cases.CASES if name != "tasks"])
def test_every_benchmark_runs(name):
    small = {"size": "nano", "prompt": 4, "batch": 8, "rounds": 1}  # on eight devices
    rows = cases.run(name, Bench(**small, members=2, steps=2))
    assert rows and all(isinstance(row, Row) and np.isfinite(row.ours) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "bench=nothing: unknown; give one of step, tasks, peak, farm, decode"),
        (["step", "--size=t6"], "--size=t6: unknown"),
        (["tasks", "--tasks=copa,cbb"], "--tasks=cbb: unknown; give one of copa"),
        (["step", "--against=keras"], "--against=keras: unknown; give one of peft"),
        (
            ["rank", "--against=peft"],
            "--against=peft: rank is not measured beside it",
        ),
        (["step", "--rounds=0"], "--rounds=0: give at least 1"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_mixture_has_examples_of_every_task_as_often_as_they_are():
    rows = examples_of(MIXTURE).examples("mixed", 512)
    assert len(rows) == 512 and rows.inputs.lengths.max() == 512
    lengths = rows.inputs.lengths
    assert 0.6 < np.mean((lengths >= 240) & (lengths < 488)) < 0.95  # most are ReCoRD's


def test_the_program_chooses_how_long_a_row_is_where_the_prompt_is_computed_once():
    task, once = TASKS["copa"].examples("copa", 512), PromptLayout(encoder=100, computed_once=True)

    def columns(layout: PromptLayout, row: int | None) -> int:
        data = Data(task="copa", input_length=512, target_length=64, batch_size=2, row_length=row)
        batch = TaskBatches([task], [1.0], data, layout, 0).batch(0)
        return batch["encoder_input_tokens"].shape[1]

    assert columns(once, None) == row_length(task.lengths, 512, 64) == 128
    assert columns(dataclasses.replace(once, decoder=40), None) == 96  # two fill the decoder's row
    assert columns(once, 256) == 256
    assert columns(PromptLayout(encoder=100), None) == 612
    with pytest.raises(UserError, match=r"row_length = 32: a text has 52 tokens; give 52 or more"):
        columns(once, 32)
