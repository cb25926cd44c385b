"""The page that `scoreboard.py` draws from its kept cells."""

import os
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from scoreboard_cells import SEEDS

Lines = Sequence[dict[str, Any]]
MINUTE = 60.0  # seconds that training a cell should take at most
OTHERS = """Methods of more than one run have boards of their own, each beside its control: transfer
between tasks (SPoT) in [spot.md](spot.md), ProMoT in [promot.md](promot.md), factorised prompts of
unseen pairs (X-Gen) in [x_gen.md](x_gen.md).
"""


def draw(rows: Sequence[Any], columns: Sequence[Any], lines: Lines, command: str) -> str:
    """The page, as Markdown; `rows` and `columns` are those of `scoreboard.py`."""
    here = [c for c in columns if any(line["column"] == c.name for line in lines)]
    if not here:
        return "# Scoreboard\n\nNo cell is finished yet.\n"
    parts = [head(lines, command), table(rows, here, lines), *takes(rows, here, lines)]
    parts.append(legend(here, lines))
    return "\n".join([*parts, *claims(here, lines), *languages(rows, here, lines), OTHERS])


def head(lines: Lines, command: str) -> str:
    dates = sorted({line["date"][:10] for line in lines})
    when = f"on {dates[0]}" if len(dates) == 1 else f"from {dates[0]} to {dates[-1]}"
    versions = {" ".join(f"{k} {v}" for k, v in line["versions"].items()) for line in lines}
    used = {(line["backbone"], line["digest"][:12]) for line in lines}
    told = ", ".join(f"`{n}` {digest}" for n, digest in sorted(used) if not n.startswith("random:"))
    spent = [line["training_seconds"] for line in lines if line["steps"]]
    over = sum(seconds > MINUTE for seconds in spent)
    took = f"Of {len(spent)} that train {over} took more than a minute of it, " if spent else ""
    took += f"the longest {max(spent):.0f} s, beside other work." if spent else ""
    return f"""# Scoreboard

Drawn by `{command}` from {len(lines)} cells, run {when} with
{"; ".join(sorted(versions))} on {os.cpu_count()} CPU cores. Backbones: {told}.
{took}
Trained rows: mean over three seeds, ± their standard deviation (n - 1); (2): over two so far;
without ±: of one. Rows of different steps are of different budgets. Each line of the file beside
this page has its command.
"""


def values(lines: Lines, row: str, column: str) -> list[float]:
    return [
        line["value"]
        for line in lines
        if (line["row"], line["column"]) == (row, column) and line["value"] is not None
    ]


def shown(found: Sequence[float], seeds: int = len(SEEDS)) -> str:
    """`62.1 ± 0.8`, `62.1 ± 0.8 (2)` of fewer seeds; a value alone has no spread."""
    if not found:
        return "-"
    if len(found) == 1:
        return f"{found[0]:.1f}"
    few = "" if len(found) == seeds else f" ({len(found)})"
    return f"{mean(found):.1f} ± {stdev(found):.1f}{few}"


def table(rows: Sequence[Any], columns: Sequence[Any], lines: Lines) -> str:
    titles = " | ".join(f"{c.name}" for c in columns)
    text = [f"| | steps | {titles} |", "|---" * (len(columns) + 2) + "|"]
    for row in rows:
        cells = " | ".join(shown(values(lines, row.name, c.name)) for c in columns)
        steps = sorted({line["steps"] for line in lines if line["row"] == row.name} - {0})
        text.append(f"| {row.title} | {', '.join(map(str, steps)) or '-'} | {cells} |")
    return "\n".join(text) + "\n"


def takes(rows: Sequence[Any], columns: Sequence[Any], lines: Lines) -> list[str]:
    """What each trained row takes, of its fastest cell in the first column that says so."""
    names = [column.name for column in columns if column.backbone == "nano"]
    text = ["| on nano | trained parameters | artefact | steps | a step | in |", "|---" * 6 + "|"]
    for row in (row for row in rows if row.name != "prompt_random"):
        said = [line for line in lines if line["row"] == row.name and "trainable" in line]
        column = next((n for n in names if any(line["column"] == n for line in said)), None)
        if column is None:
            continue
        here = [line for line in said if line["column"] == column]
        best = min(here, key=lambda line: line["training_seconds"])
        size, steps = f"{best['artefact_bytes'] / 1e3:,.0f} kB", best["steps"]
        step = f"{1e3 * best['training_seconds'] / steps:,.0f} ms"
        text.append(
            f"| {row.title} | {best['trainable']:,} | {size} | {steps} | {step} | {column} |"
        )
    told = (
        "The times hold compilation, and are of a machine with other work: not to be compared. "
        "`benchmarks/methods.py`\ntimes steps in turns; docs/methods.md has its table."
    )
    return ["\n".join(text) + f"\n\n{told}\n"] if text[2:] else []


def legend(columns: Sequence[Any], lines: Lines) -> str:
    text = ["| column | task | metric | trained on | scored on | backbone |", "|---" * 6 + "|"]
    for c in columns:
        scored = f"{c.scored or c.task} {c.splits[1]}"
        text.append(
            f"| {c.name} | `{c.task}` | {c.metric} | {c.splits[0]} | {scored} | {c.backbone} |"
        )
    return (
        "\n".join(text)
        + """

Scored on the first 500 examples of a split (pos_other_languages: 250 of each language), after the
last step: no checkpoint is chosen. Labels are ranked by their likelihood; e2e is written. Numbers
are in percent.
"""
    )


def claims(columns: Sequence[Any], lines: Lines) -> list[str]:
    """What the prompt is worth in each classification column, beside what full tuning is."""
    over = "over the commonest answer | over random weights"
    text = [f"| | {over} | spread of seeds | of the gap to full |", "|---" * 5 + "|"]
    gaps = []
    for column in (c for c in columns if c.classification):
        found = {
            row: values(lines, row, column.name)
            for row in ("majority", "prompt", "full", "prompt_random")
        }
        if not all(some for row, some in found.items() if row != "prompt_random"):
            continue
        at = {row: mean(some) for row, some in found.items() if some}
        beaten = f"{at['prompt'] - at['prompt_random']:+.1f}" if "prompt_random" in at else "-"
        seeds = [found[row] for row in ("prompt", "prompt_random") if len(found[row]) > 1]
        spread = f"{max(map(stdev, seeds)):.1f}" if len(seeds) == 2 else "-"
        gain, gap = at["prompt"] - at["majority"], at["full"] - at["majority"]
        gaps.append((gain, gap))
        text.append(f"| {column.name} | {gain:+.1f} | {beaten} | {spread} | {share(gain, gap)} |")
    if not gaps:
        return []
    gain, gap = (mean(side) for side in zip(*gaps, strict=True))
    text.append(f"| mean | {gain:+.1f} | | | {share(gain, gap)} |")
    return ["What the prompt is worth, in points:\n", "\n".join(text) + "\n"]


def share(gain: float, gap: float) -> str:
    """What part of the way from the commonest answer to full fine-tuning; none where full fails."""
    return f"{100 * gain / gap:.0f} %" if gap > 0 else "-"


def languages(rows: Sequence[Any], columns: Sequence[Any], lines: Lines) -> list[str]:
    """A table for each column that is scored on several tasks: what each row reaches in each."""
    parts = []
    for column in (c for c in columns if c.scored):
        by_row: dict[str, dict[str, list[float]]] = {}
        for line in (x for x in lines if x["column"] == column.name):
            for name, value in line["metrics"].items():
                task, _, metric = name.rpartition("/")
                if metric == column.metric and task:
                    language = task.rpartition("_")[2]
                    by_row.setdefault(line["row"], {}).setdefault(language, []).append(value)
        found = sorted({language for scores in by_row.values() for language in scores})
        text = [f"| {column.name} | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
        for row in (r for r in rows if r.name in by_row):
            cells = [shown(by_row[row.name].get(language, [])) for language in found]
            text.append(f"| {row.title} | {' | '.join(cells)} |")
        parts.append("\n".join(text) + "\n")
    return parts
