"""The pages that `boards.py` draws from its kept cells, and the one test they use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from boards_rows import COLUMNS, RATES, ROWS, Column

RESAMPLES, LEVEL, CLAIMED = 4000, 0.95, 0.05
RISING = 1.0  # points by which the last third of a curve may pass what came before

Lines = Mapping[str, dict[str, Any]]  # by row


class Compared(NamedTuple):
    """A difference in points, its interval, and how likely one as far from zero is without any."""

    difference: float
    low: float
    high: float
    p: float


def right_of(line: dict[str, Any]) -> np.ndarray:
    """float64 [S, N]: whether the prompt of seed s was right about test example n."""
    return np.array([[int(mark) for mark in run] for run in line["right"]], float)


def interval(right: np.ndarray) -> tuple[float, float]:
    """Of a score in percent: seeds and, within them, examples are drawn anew."""
    draws = _draws(right, np.random.default_rng(0))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def compared(a: np.ndarray, b: np.ndarray) -> Compared:
    """A paired bootstrap of `a` over `b`: the seeds that both have, and examples, are drawn anew.

    What has no seeds, such as the bare backbone, is the same under each.
    """
    seeds = max(len(a), len(b))
    a, b = (np.broadcast_to(x, (seeds, x.shape[1])) if len(x) == 1 else x for x in (a, b))
    seeds = min(len(a), len(b))
    difference = a[:seeds] - b[:seeds]
    draws = _draws(difference, np.random.default_rng(0))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (RESAMPLES + 1))
    return Compared(100 * float(difference.mean()), float(low), float(high), float(p))


def _draws(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float64 [RESAMPLES], in percent."""
    seeds, examples = values.shape
    draws = np.empty(RESAMPLES)
    for n in range(RESAMPLES):
        some = values[rng.integers(seeds, size=seeds)]
        draws[n] = some[:, rng.integers(examples, size=examples)].mean()
    return 100 * draws


def rising(line: dict[str, Any]) -> bool:
    """Whether a seed's curve still rose in its last third."""
    for points in line.get("curves", ()):
        values = [value for _, value in points]
        cut = max(1, round(len(values) * 2 / 3))
        if len(values) > cut and max(values[cut:]) > max(values[:cut]) + RISING:
            return True
    return False


def told(line: dict[str, Any]) -> str:
    """A cell in a line, for the terminal."""
    score = 100 * right_of(line).mean()
    rate = f" at {line['rate']}" if line.get("rate") else ""
    return f"{line['column']} {line['row']}: {score:.1f}{rate} ({line['seconds']} s)"


RULES = f"""# Boards

Methods by tasks, drawn by `python benchmarks/boards.py`, which goes on with the cells that are
missing. The rules are in its code and the same for every row:

- 16 examples an update, not packed, whatever a method's columns take up.
- A rate of {", ".join(map(str, RATES))}: a farm of seed 0 tries all with successive halving,
  by rows of the training split that nothing is trained on. `<` and `>` mark the lowest and the
  highest of the grid: a better one may lie outside.
- Two more seeds at that rate. The step is chosen by the same rows. `^` marks a curve that still
  rose by over {RISING:.0f} point in its last third: more steps may help.
- The test split is asked once, by the prompts that were chosen.
- Each claim has a control that differs in the one thing claimed. Intervals ({LEVEL:.0%}) and p are
  of one bootstrap, which draws seeds and, within them, test examples; a claim holds where p is
  below {CLAIMED}.
- Words that are counted and the bare backbone stand beside them.

"""


def draw(output: str) -> None:
    """Every page whose column has cells, and the one that lists them."""
    listed = []
    for column in COLUMNS:
        file = Path(output, f"{column.name}.jsonl")
        if file.exists():
            lines = {line["row"]: line for line in map(json.loads, file.read_text().splitlines())}
            file.with_suffix(".md").write_text(page(column, lines))
            listed.append(f"- [{column.title}]({column.name}.md): {len(lines)} rows")
    Path(output).mkdir(parents=True, exist_ok=True)
    Path(output, "index.md").write_text(RULES + "\n".join(listed or ["No cell yet."]) + "\n")


def page(column: Column, lines: Lines) -> str:
    """The table of a column, what each claim comes to, and how it was run."""
    parts = [_head(column, lines), _table(lines), _claims(lines), _commands(column, lines)]
    return "\n".join(parts)


def _head(column: Column, lines: Lines) -> str:
    dates = sorted({line["date"][:10] for line in lines.values()})
    commits = ", ".join(sorted({line["commit"] for line in lines.values()}))
    minutes = sum(line["seconds"] for line in lines.values()) / 60
    bound = dict(binding.split("=", 1) for binding in column.bindings)
    steps, period = bound.get("TRAIN_STEPS", "400"), bound.get("EVAL_PERIOD", "100")
    trained, chose, scored = column.splits
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"""# Board: {column.title}

`python benchmarks/boards.py --columns={column.name}`, {when}, commits {commits},
{minutes:.0f} minutes on two CPU cores. Task `{column.task}`: trained on `{trained}`,
chosen on `{chose}`, scored once on `{scored}`; nano, float32.

Every row has {steps} steps, looked at every {period}, and the [rules](index.md) of all boards.
"""


def _table(lines: Lines) -> str:
    head = (
        "| row | trained numbers | rate | chosen on | test | interval |\n|---|---|---|---|---|---|"
    )
    rows = [head]
    for row in ROWS:
        if row.name not in lines:
            continue
        line = lines[row.name]
        right = right_of(line)
        scores = 100 * right.mean(1)
        low, high = interval(right)
        spread = f" ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else ""
        rate = line.get("rate")
        edge = {RATES[0]: " <", RATES[-1]: " >"}.get(rate, "") if rate else ""
        trained = f"{line['trained']:,}" if "trained" in line else ""
        chosen = f"{np.mean(line['chosen']):.1f}" if "chosen" in line else ""
        mark = " ^" if rising(line) else ""
        rows.append(
            f"| {row.title} | {trained} | {rate or ''}{edge} | {chosen} | "
            f"{scores.mean():.1f}{spread}{mark} | {low:.1f} to {high:.1f} |"
        )
    return "\n".join(rows) + "\n"


def _claims(lines: Lines) -> str:
    """Each row beside the one that differs in what it claims."""
    rows = []
    for row in ROWS:
        if row.control is None or row.name not in lines or row.control not in lines:
            continue
        found = compared(right_of(lines[row.name]), right_of(lines[row.control]))
        titles = {other.name: other.title for other in ROWS}
        holds = "no difference shown"
        if found.p < CLAIMED:
            holds = "more" if found.difference > 0 else "less"
        rows.append(
            f"| {row.title} | {titles[row.control]} | {row.claim} | {found.difference:+.1f} | "
            f"{found.low:+.1f} to {found.high:+.1f} | {found.p:.3f} | {holds} |"
        )
    if not rows:
        return ""
    head = "| row | its control | what differs | points | interval | p | |"
    return "\n".join(["## Claims\n", head, "|---|---|---|---|---|---|---|", *rows]) + "\n"


def _commands(column: Column, lines: Lines) -> str:
    """The commands of one row, as an example; the file beside the page has those of all."""
    if "prompt" not in lines:
        return ""
    shown = "\n".join(lines["prompt"]["commands"])
    return f"""## Commands

Those of the row `prompt`, in a folder D; [{column.name}.jsonl]({column.name}.jsonl) has
those of all rows, the scores at every rate, the curves, and which test examples each seed got
right.

```
{shown}
```
"""
