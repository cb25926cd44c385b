"""The page that `scoreboard.py` draws from its kept cells."""

import os
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

Lines = Sequence[dict[str, Any]]
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
    longest = max(line["training_seconds"] for line in lines)
    return f"""# Scoreboard

Drawn by `{command}` from {len(lines)} cells, run {when} with
{"; ".join(sorted(versions))} on {os.cpu_count()} CPU cores. Backbones: {told}.
The longest training of a cell took {longest:.0f} s. Trained rows: mean over seeds, ± the standard
deviation of the seeds (n - 1). Each line of the file beside this page has its command.
"""


def values(lines: Lines, row: str, column: str) -> list[float]:
    return [
        line["value"]
        for line in lines
        if (line["row"], line["column"]) == (row, column) and line["value"] is not None
    ]


def shown(found: Sequence[float]) -> str:
    """`62.1 ± 0.8`; a value alone has no spread."""
    if not found:
        return "-"
    return f"{found[0]:.1f}" if len(found) == 1 else f"{mean(found):.1f} ± {stdev(found):.1f}"


def table(rows: Sequence[Any], columns: Sequence[Any], lines: Lines) -> str:
    titles = " | ".join(f"{c.name}" for c in columns)
    text = [f"| | {titles} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = " | ".join(shown(values(lines, row.name, c.name)) for c in columns)
        text.append(f"| {row.title} | {cells} |")
    return "\n".join(text) + "\n"


def takes(rows: Sequence[Any], columns: Sequence[Any], lines: Lines) -> list[str]:
    """What each trained row takes, from the column in which most rows say so."""
    said = [line for line in lines if "trainable" in line and line["row"] != "prompt_random"]
    by_column = {c.name: {x["row"]: x for x in said if x["column"] == c.name} for c in columns}
    name = max(by_column, key=lambda name: len(by_column[name]))
    if not by_column[name]:
        return []
    text = [f"| {name} | trained parameters | artefact | steps | of training |", "|---" * 5 + "|"]
    for row in rows:
        if line := by_column[name].get(row.name):
            size = f"{line['artefact_bytes'] / 1e3:,.0f} kB"
            spent = f"{line['steps']} | {line['training_seconds']:.0f} s"
            text.append(f"| {row.title} | {line['trainable']:,} | {size} | {spent} |")
    return ["\n".join(text) + "\n\nSeconds are of a machine with other work; see `benchmarks/`.\n"]


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
    """What the prompt is worth in each classification column, where all rows are there."""
    over = "over the commonest answer | over random weights"
    text = [f"| | {over} | spread of seeds | of the gap to full |", "|---" * 5 + "|"]
    gaps = []
    for column in (c for c in columns if c.classification):
        found = {
            row: values(lines, row, column.name)
            for row in ("majority", "prompt", "full", "prompt_random")
        }
        if not all(found.values()):
            continue
        at = {row: mean(some) for row, some in found.items()}
        seeds = [found[row] for row in ("prompt", "prompt_random") if len(found[row]) > 1]
        spread = f"{max(map(stdev, seeds)):.1f}" if len(seeds) == 2 else "-"
        gain, gap = at["prompt"] - at["majority"], at["full"] - at["majority"]
        gaps.append((gain, gap))
        text.append(
            f"| {column.name} | {gain:+.1f} | {at['prompt'] - at['prompt_random']:+.1f} "
            f"| {spread} | {share(gain, gap)} |"
        )
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
