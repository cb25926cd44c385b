"""The benchmark of methods: rows that are there, steps in turns, shares of the first."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import methods

sys.path.pop(0)


def test_an_unknown_row_is_one_line(capsys) -> None:
    assert methods.main(["--rows=lola"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("methods: error: --rows=lola: no 'lola'; there are prompt, ")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_steps_of_two_rows_are_compared() -> None:
    rows = [row for row in methods.TRAINED if row.name in ("ia3", "full")]
    scales, full = methods.measure(rows, rounds=1)
    assert (scales["row"], scales["trained"], scales["share"]) == ("ia3", 6144, 1.0)
    assert full["trained"] == 4_066_304 and full["ms"] > 0
    assert full["optimizer_bytes"] > 5 * scales["optimizer_bytes"]  # factored
