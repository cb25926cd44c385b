"""The page that `promot.py` draws from its kept cells."""

import os
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

Lines = Sequence[dict[str, Any]]
Mark = dict[str, float]
TITLES = {"full": "plain fine-tuning", "promot": "ProMoT"}


def draw(targets: Sequence[Any], untouched: Sequence[Any], lines: Lines, command: str) -> str:
    """The page, as Markdown; `targets` and `untouched` are those of `promot.py`."""
    bare = [line for line in lines if line["row"] == "backbone"]
    here = [t for t in targets if both(lines, t.name)]
    if not bare or not here:
        return "# ProMoT on nano\n\nNo target is finished yet.\n"
    names = [f"promot_{task.name}/accuracy" for task in untouched]
    parts = [head(untouched, lines, bare[0], command)]
    for target in here:
        parts += [f"## {target.name}\n", chosen_table(target, untouched, names, lines, bare[0])]
        parts += [matched(target.name, names, lines, bare[0]), course(target.name, names, lines)]
        parts += [gradients(target.name, lines)]
    return "\n".join(parts)


def both(lines: Lines, target: str) -> list[int]:
    """The seeds with a plain fine-tuning and one behind a prompt."""
    seeds = [set(runs(lines, row, target)) for row in ("full", "promot")]
    return sorted(seeds[0] & seeds[1])


def runs(lines: Lines, row: str, target: str) -> dict[int, list[Mark]]:
    """{seed: what was scored, by step}."""
    return {x["seed"]: x["marks"] for x in lines if (x["row"], x["column"]) == (row, target)}


def best(marks: Sequence[Mark]) -> Mark:
    """The first of those with the target's best score."""
    return max(marks, key=lambda mark: mark["accuracy"])


def others(mark: Mark, names: Sequence[str]) -> float:
    """Mean over the untouched tasks."""
    return mean(mark[name] for name in names)


def shown(found: Sequence[float], sign: str = "") -> str:
    """`62.1 ± 0.8`; a value alone has no spread."""
    if not found:
        return "-"
    told = f"{mean(found):{sign}.1f}"
    return told if len(found) == 1 else f"{told} ± {stdev(found):.1f}"


def head(untouched: Sequence[Any], lines: Lines, bare: dict[str, Any], command: str) -> str:
    dates = sorted({line["date"][:10] for line in lines})
    longest = max(line["seconds"] for line in lines)
    text = ["| untouched task | rows | chance | nano |", "|---|---|---|---|"]
    for task in untouched:
        name = f"promot_{task.name}"
        rows, chance = bare["examples"][name], bare["chance"][name]
        score = bare["marks"][0][f"{name}/accuracy"]
        text.append(f"| {task.name}: {task.title} | {rows} | {chance:.1f} | {score:.1f} |")
    return f"""# ProMoT on nano

Drawn by `{command}` from {len(lines)} cells, run {" to ".join(sorted({dates[0], dates[-1]}))} on
{os.cpu_count()} CPU cores beside other work (longest cell {longest:.0f} s).
Backbone `nano` {bare["digest"][:12]}. Recipes `runs/promot_nano.gin` and
`runs/promot_control_nano.gin`, both with 32 examples a step, one to a row. ProMoT's
prompt is tuned for 300 steps before, in which no weight of the model changes.

Does a model forget less where it is fine-tuned behind a prompt (Wang et al. 2024)? The target is
asked with the prompt, other tasks without it. These are what nano does without a prompt: forms of
its own third stage, on rows that it was not trained on. Accuracy in percent, of what is written.
Chance is the commonest answer, or a draw among the options that rows list. ± is the standard
deviation over seeds.

{chr(10).join(text)}
"""


def chosen_table(
    target: Any, untouched: Sequence[Any], names: Sequence[str], lines: Lines, bare: dict[str, Any]
) -> str:
    """Scores at the step that the target's own score chose, and their mean of untouched tasks."""
    titles = " | ".join(task.name for task in untouched)
    text = [f"| | step | target | without prompt | {titles} | mean |"]
    text.append("|---" * (len(untouched) + 5) + "|")
    mark = bare["marks"][0]
    cells = " | ".join(f"{mark[name]:.1f}" for name in names)
    text.append(f"| nano | | | | {cells} | {others(mark, names):.1f} |")
    prompts = [best(marks)["accuracy"] for marks in runs(lines, "prompt", target.name).values()]
    text.append(f"| its prompt | | {shown(prompts)} | |{' |' * len(names)} |")
    seeds = both(lines, target.name)
    for row, title in TITLES.items():
        found = [best(runs(lines, row, target.name)[seed]) for seed in seeds]
        steps = ", ".join(str(mark["step"]) for mark in found)
        bare_prompt = [mark["without_prompt"] for mark in found if "without_prompt" in mark]
        cells = [shown([mark["accuracy"] for mark in found]), shown(bare_prompt)]
        cells += [shown([mark[name] for mark in found]) for name in names]
        cells.append(shown([others(mark, names) for mark in found]))
        text.append(f"| {title} | {steps} | {' | '.join(cells)} |")
    return (
        f"`{target.task}`, at the step that its own validation chose ({len(seeds)} "
        f"{'seed' if len(seeds) == 1 else 'seeds'}):\n\n" + "\n".join(text) + "\n"
    )


def matched(target: str, names: Sequence[str], lines: Lines, bare: dict[str, Any]) -> str:
    """Both fine-tunings where they first reach the lower one of their best scores."""
    whole = others(bare["marks"][0], names)
    chance = mean(bare["chance"][name.partition("/")[0]] for name in names)
    left: tuple[list[float], list[float]] = ([], [])
    text = ["| seed | score | plain: step, target, untouched | ProMoT: step, target, untouched "]
    text[0] += "| ProMoT keeps |"
    text.append("|---" * 5 + "|")
    kept = []
    for seed in both(lines, target):
        courses = [runs(lines, row, target)[seed] for row in TITLES]
        score = min(best(marks)["accuracy"] for marks in courses)
        at = [next(m for m in marks if m["accuracy"] >= score) for marks in courses]
        cells = [f"{m['step']}, {m['accuracy']:.1f}, {others(m, names):.1f}" for m in at]
        for some, mark in zip(left, at, strict=True):
            some.append(others(mark, names))
        kept.append(left[1][-1] - left[0][-1])
        text.append(f"| {seed} | {score:.1f} | {' | '.join(cells)} | {kept[-1]:+.1f} |")
    return (
        "Each stopped where it first reaches the lower one of the two best scores:\n\n"
        + "\n".join(text)
        + f"\n\nPoints that ProMoT keeps of untouched tasks: {shown(kept, '+')}. "
        + told_ratios(*map(mean, left), whole, chance)
    )


def told_ratios(plain: float, promot: float, whole: float, chance: float) -> str:
    """Whether ProMoT keeps twice as much, by each way to count."""
    holds = "holds" if promot >= 2 * plain else "does not hold"
    shares = ((promot, plain), (promot - chance, plain - chance))
    whole_share, above = (
        f"{a / b:.2f} times" if b > 0 else "any number of times" for a, b in shares
    )
    return (
        f"Of nano's {whole:.1f} it loses\n{whole - promot:.1f} points, plain fine-tuning "
        f"{whole - plain:.1f}. That it keeps twice as much of the score {holds}:\nit keeps "
        f"{whole_share} as much, and {above} as much of what is above chance ({chance:.1f}).\n"
    )


def course(target: str, names: Sequence[str], lines: Lines) -> str:
    """Both fine-tunings at every evaluation, mean over seeds."""
    text = ["| step | plain: target | untouched | ProMoT: target | untouched |", "|---" * 5 + "|"]
    seeds = both(lines, target)
    by_row = {row: runs(lines, row, target) for row in TITLES}
    for marks in zip(*(by_row[row][seed] for row in TITLES for seed in seeds), strict=True):
        cells = []
        for found in (marks[: len(seeds)], marks[len(seeds) :]):
            cells.append(shown([mark["accuracy"] for mark in found]))
            cells.append(shown([others(mark, names) for mark in found]))
        text.append(f"| {marks[0]['step']} | {' | '.join(cells)} |")
    return "Step by step:\n\n" + "\n".join(text) + "\n"


def gradients(target: str, lines: Lines) -> str:
    """The cosine of each fine-tuning's gradient and its format gradient, by step."""
    found: dict[int, dict[str, list[float]]] = {}
    for line in lines:
        if line["column"] == target and "gradients" in line:
            for mark in line["gradients"]:
                some = found.setdefault(mark["step"], {}).setdefault(line["row"], [])
                some.append(mean(mark["cosines"]))
    if not found:
        return ""
    seeds = {x["seed"] for x in lines if x["column"] == target and "gradients" in x}
    text = ["| step | plain fine-tuning | ProMoT |", "|---|---|---|"]
    for step, by_row in sorted(found.items()):
        cells = [cosine(by_row.get(f"{row}_gradient", [])) for row in TITLES]
        text.append(f"| {step} | {' | '.join(cells)} |")
    return (
        "Cosine of the gradient and the format gradient, that of the same batch with its targets\n"
        f"shuffled, mean of four batches (seeds {', '.join(map(str, sorted(seeds)))}; "
        "the paper: 0.96 to 0.99 at\nstep 0, 0.05 to 0.2 at step 400):\n\n" + "\n".join(text) + "\n"
    )


def cosine(found: Sequence[float]) -> str:
    """`0.96 ± 0.01` over seeds."""
    if not found:
        return "-"
    told = f"{mean(found):.2f}"
    return told if len(found) == 1 else f"{told} ± {stdev(found):.2f}"
