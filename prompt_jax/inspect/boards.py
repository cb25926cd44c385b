"""Boards and farms on the page of runs: files that hold a line for each finished run."""

import itertools
import json
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from etils import epath

from prompt_jax.errors import UserError, reading
from prompt_jax.inspect.compare import paired_t

FARM = "farm.jsonl"
SHADE = 0.5  # of the best cell of a column
MOST_PAIRS = 60
Lines = Sequence[dict[str, Any]]


def read_board(path: epath.Path) -> list[dict[str, Any]]:
    """The cells of a board: lines with `row`, `column`, `seed` and a `value` (None: not finished).

    Raises:
      UserError: a line is none; no line has a value.
    """
    wanted = {"row": str, "column": str, "value": object}
    cells = _read_lines(path, wanted, "cell of a board", "give the .jsonl that a benchmark wrote")
    cells = [cell for cell in cells if isinstance(cell["value"], int | float)]
    if not cells:
        raise UserError(str(path), "holds no cell with a value")
    return cells


def _read_lines(
    path: epath.Path, wanted: dict[str, type], what: str, remedy: str
) -> list[dict[str, Any]]:
    """Objects of JSON, one a line, that have these fields; UserError names file and line."""
    lines = []
    with reading(path, remedy) as place:
        for place.line, text in enumerate(path.read_text().splitlines(), start=1):
            if not text.strip():
                continue
            line = json.loads(text)
            known = line if isinstance(line, dict) else {}
            if not all(n in known and isinstance(known[n], kind) for n, kind in wanted.items()):
                raise ValueError(f"is not a {what}: it needs {', '.join(wanted)}")
            lines.append(line)
    return lines


def board_of(cells: Lines) -> dict[str, Any]:
    """Rows by columns for the template: mean and spread over seeds, shaded within each column."""
    rows, columns = (list(dict.fromkeys(c[name] for c in cells)) for name in ("row", "column"))
    values = {place: list(_seeds(cells, *place).values()) for place in _product(rows, columns)}
    means = {place: mean(found) for place, found in values.items() if found}
    shown = []
    for row in rows:
        entries = []
        for column in columns:
            others = [means[r, column] for r in rows if (r, column) in means]
            entries.append(_cell(values[row, column], min(others), max(others)))
        shown.append({"label": row, "cells": entries})
    return {"columns": columns, "rows": shown}


def _product(rows: Sequence[str], columns: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.product(rows, columns))


def _seeds(cells: Lines, row: str, column: str) -> dict[Any, float]:
    return {c.get("seed"): c["value"] for c in cells if (c["row"], c["column"]) == (row, column)}


def _cell(values: Sequence[float], low: float, high: float) -> dict[str, Any]:
    if not values:
        return {"text": "-", "each": "", "shade": 0}
    average = mean(values)
    text = f"{average:.1f}"
    if len(values) > 1:
        text += f" ± {stdev(values):.1f}"
    shade = 0 if high == low else round(SHADE * (average - low) / (high - low), 2)
    return {"text": text, "each": ", ".join(f"{v:.4g}" for v in values), "shade": shade}


def board_tests(cells: Lines) -> list[dict[str, Any]]:
    """Every two rows that share two columns: a paired t-test of their means in these columns."""
    rows = list(dict.fromkeys(cell["row"] for cell in cells))
    means: dict[str, dict[str, float]] = {row: {} for row in rows}
    for row, column in dict.fromkeys((cell["row"], cell["column"]) for cell in cells):
        means[row][column] = mean(_seeds(cells, row, column).values())
    found = []
    for a, b in itertools.combinations(rows, 2):
        shared = [column for column in means[a] if column in means[b]]
        if len(shared) < 2:
            continue
        test = paired_t([means[a][c] for c in shared], [means[b][c] for c in shared])
        low, high = test.get("interval", (None, None))
        found.append(
            {
                "pair": f"{a} minus {b}",
                "on": f"{len(shared)} columns",
                "difference": f"{test['difference']:+.4g}",
                "interval": "-" if low is None else f"{low:+.4g} to {high:+.4g}",
                "p": test.get("p"),
            }
        )
    return sorted(found, key=lambda row: 2.0 if row["p"] is None else row["p"])[:MOST_PAIRS]


def read_farm(folder: epath.Path) -> list[dict[str, Any]]:
    """How each member of a farm stands, a row each; [] where the folder holds no farm."""
    path = folder / FARM
    if not path.exists():
        return []
    wanted = {"name": str, "settings": dict, "status": str, "step": object}
    members = _read_lines(path, wanted, "member of a farm", "run the farm again, which writes it")
    settings = dict.fromkeys(name for member in members for name in member["settings"])
    return [
        {
            "member": member["name"],
            **{name: str(member["settings"].get(name, "")) for name in settings},
            "status": member["status"],
            "step": member["step"],
            f"best {member.get('metric', 'metric')}": member.get("best"),
            "at step": member.get("best_step"),
        }
        for member in members
    ]
