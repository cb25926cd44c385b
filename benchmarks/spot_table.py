"""The page and the pictures that `spot.py` draws from its kept cells."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from prompt_jax.inspect import pictures
from prompt_jax.transfer.similarity import SIMILARITIES

VOCABULARY = "vocabulary"
Lines = Sequence[dict[str, Any]]


def draw(
    tasks: Sequence[Any], targets: Sequence[Any], lines: Lines, command: str, page: Path
) -> None:
    """Writes the page, and beside it PAGE_gains.png and PAGE_similarity.png."""
    targets = [t for t in targets if values(lines, VOCABULARY, t.name)]
    if not targets:
        page.write_text("# SPoT on nano\n\nNo target is finished yet.\n")
        return
    parts = [head(tasks, targets, lines, command), gain_table(tasks, targets, lines)]
    parts += [similarity_table(tasks, targets, lines), claims(targets, lines)]
    parts += [pictures_of(tasks, targets, lines, page)]
    page.write_text("\n".join(parts))


def values(lines: Lines, init: str, target: str) -> dict[int, float]:
    """{seed: score}."""
    return {x["seed"]: x["value"] for x in lines if (x["row"], x["column"]) == (init, target)}


def gains(lines: Lines, init: str, target: str) -> list[float]:
    """Points over the vocabulary's init, seed by seed."""
    base, found = values(lines, VOCABULARY, target), values(lines, init, target)
    return [found[seed] - base[seed] for seed in sorted(found) if seed in base]


def shown(found: Sequence[float], sign: str = "") -> str:
    """`+2.1 ± 0.8`; a value alone has no spread."""
    if not found:
        return "-"
    told = f"{mean(found):{sign}.1f}"
    return told if len(found) == 1 else f"{told} ± {stdev(found):.1f}"


def similarity(lines: Lines, init: str, target: str, kind: str) -> float | None:
    """Of a source and a target; None before the cell is run."""
    found = [x for x in lines if (x["row"], x["column"]) == (init, target) and "similarity" in x]
    return found[0]["similarity"][kind] if found else None


def head(tasks: Sequence[Any], targets: Sequence[Any], lines: Lines, command: str) -> str:
    dates = sorted({line["date"][:10] for line in lines})
    cells = [line for line in lines if line["row"] != "source"]
    seconds = sorted(line["seconds"] for line in cells)
    names = ", ".join(f"{t.name} ({t.scored})" for t in targets)
    scores = [x for x in lines if x["row"] == "source"]
    told = {x["column"]: f"{x['value']:.1f} at step {x['best_step']}" for x in scores}
    sources = "; ".join(f"{t.name} {told[t.name]}" for t in tasks if t.name in told)
    return f"""# SPoT on nano

Drawn by `{command}` from {len(cells)} cells, run {" to ".join(sorted({dates[0], dates[-1]}))} on
{os.cpu_count()} CPU cores beside other work (median {seconds[len(seconds) // 2]:.0f} s a cell).
Backbone `nano` {lines[0]["digest"][:12]}. Recipe `runs/spot_nano.gin`.

A source trains for 600 steps of 16 rows; its prompt is the best of steps 0, 200, 400 and 600 by its
own validation (best scores: {sources}).
A target has 500 examples and 200 steps of 8 rows, from the vocabulary or from a source, and is
scored after the last step, so that nothing is chosen on what is scored: {names}.
Embeddings are the prompts of step 50. Sources have seed 0; ± is the standard deviation over the
targets' seeds. Accuracy in percent. No task here is in nano's own pretraining mixture. MR and SST-2
are of the same reviews: MR's sentences that begin or end as a scored one are left out.
"""


def gain_table(tasks: Sequence[Any], targets: Sequence[Any], lines: Lines) -> str:
    titles = " | ".join(t.name for t in targets)
    base = " | ".join(shown(list(values(lines, VOCABULARY, t.name).values())) for t in targets)
    text = [f"| init | {titles} |", "|---" * (len(targets) + 1) + "|"]
    text.append(f"| vocabulary, the score | {base} |")
    for task in tasks:
        cells = " | ".join(shown(gains(lines, task.name, t.name), "+") for t in targets)
        text.append(f"| from {task.name}, points more | {cells} |")
    return "\n".join(text) + "\n"


def similarity_table(tasks: Sequence[Any], targets: Sequence[Any], lines: Lines) -> str:
    """Both similarities, and their rank correlation with the mean gains."""
    titles = " | ".join(t.name for t in targets)
    text = [f"| similarity (pairs / means) | {titles} |", "|---" * (len(targets) + 1) + "|"]
    for task in tasks:
        cells = []
        for target in targets:
            both = [similarity(lines, task.name, target.name, kind) for kind in ("pairs", "means")]
            cells.append(" / ".join("-" if x is None else f"{x:.3f}" for x in both))
        text.append(f"| {task.name} | {' | '.join(cells)} |")
    for kind in SIMILARITIES:
        cells = " | ".join(rho(pairs_of(tasks, [t], lines, kind)) for t in targets)
        text.append(f"| Spearman of {kind} with the gain | {cells} |")
    pooled = [f"{kind} {rho(pairs_of(tasks, targets, lines, kind))}" for kind in SIMILARITIES]
    count = len(pairs_of(tasks, targets, lines, "pairs"))
    text.append(f"\nSpearman over all {count} pairs of source and target: {', '.join(pooled)}.")
    return "\n".join(text) + "\n"


def pairs_of(tasks, targets, lines: Lines, kind: str) -> list[tuple[float, float]]:
    """(similarity, mean gain) of every pair that is there."""
    found = []
    for target in targets:
        for task in tasks:
            near = similarity(lines, task.name, target.name, kind)
            over = gains(lines, task.name, target.name)
            if near is not None and over:
                found.append((near, mean(over)))
    return found


def rho(pairs: Sequence[tuple[float, float]]) -> str:
    """Spearman's rank correlation; none of less than three pairs, or where a side is constant."""
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return "-"
    return f"{float(spearmanr(*zip(*pairs, strict=True)).statistic):+.2f}"


def claims(targets: Sequence[Any], lines: Lines) -> str:
    """What was expected of each pair before the runs, and whether it came."""
    text = ["| target | source | expected | points more | holds |", "|---" * 5 + "|"]
    for target in targets:
        for expected, names in (("helps", target.related), ("does not", target.unrelated)):
            for name in names:
                over = gains(lines, name, target.name)
                told = verdict(over, spread(lines, target.name), expected == "helps")
                text.append(
                    f"| {target.name} | {name} | {expected} | {shown(over, '+')} | {told} |"
                )
    return (
        "Written down beforehand; a gain counts where it is larger than the spread of the\n"
        "vocabulary's init over seeds and than its own:\n\n" + "\n".join(text) + "\n"
    )


def spread(lines: Lines, target: str) -> float:
    found = list(values(lines, VOCABULARY, target).values())
    return stdev(found) if len(found) > 1 else float("nan")


def verdict(over: Sequence[float], noise: float, helps: bool) -> str:
    """One seed has no spread, so that nothing can be said of it."""
    if len(over) < 2:
        return "one seed"
    lifted = mean(over) > max(noise, stdev(over))
    return "yes" if lifted == helps else "no"


def pictures_of(tasks: Sequence[Any], targets: Sequence[Any], lines: Lines, page: Path) -> str:
    """Draws both heat maps; the lines that show them, with words for who does not see them."""
    rows, columns = [t.name for t in tasks], [t.name for t in targets]
    near = [[similarity(lines, r, c, "pairs") for c in columns] for r in rows]
    over = [[gains(lines, r, c) for c in columns] for r in rows]
    names = {"row_name": "source", "column_name": "target"}
    shown = []
    grid = np.array([[np.nan if x is None else x for x in row] for row in near])
    if np.isfinite(grid).any():
        path = page.with_name(f"{page.stem}_similarity.png")
        title = "Similarity of source and target (pairs)"
        pictures.heat_map(grid, rows, columns, title, str(path), scale="cosine", **names)
        shown.append(f"![{alt('Similarity', grid, rows, columns, '.3f')}]({path.name})")
    grid = np.array([[mean(x) if x else np.nan for x in row] for row in over])
    if np.isfinite(grid).any():
        deviations = np.array([[stdev(x) if len(x) > 1 else np.nan for x in row] for row in over])
        path = page.with_name(f"{page.stem}_gains.png")
        title, scale = (
            "Points over the vocabulary's init",
            "points of accuracy, mean ± std of seeds",
        )
        pictures.heat_map(
            grid,
            rows,
            columns,
            title,
            str(path),
            scale=scale,
            centred=True,
            spread=deviations,
            **names,
        )
        shown.append(f"![{alt('Points gained', grid, rows, columns, '+.1f')}]({path.name})")
    return "\n".join(shown) + "\n"


def alt(what: str, grid: np.ndarray, rows: Sequence[str], columns: Sequence[str], form: str) -> str:
    """A heat map in words: its greatest and its least cell."""
    ends = {"greatest": np.nanargmax(grid), "least": np.nanargmin(grid)}
    parts = []
    for name, at in ends.items():
        row, column = (int(n) for n in np.unravel_index(at, grid.shape))
        value = format(grid[row, column], form)
        parts.append(f"{name} from {rows[row]} to {columns[column]}, {value}")
    return f"{what} by source (rows) and target (columns): {'; '.join(parts)}."
