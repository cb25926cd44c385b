"""`report.html`: runs on one page that needs no network; charts by uPlot (MIT), inlined."""

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.inspect import boards, charts, compare
from prompt_jax.inspect.nearest import WARNING
from prompt_jax.inspect.runs import Group, Run, differing, grouped
from prompt_jax.splits import readable
from prompt_jax.version import __version__

HEADINGS = {
    "board": "Board",
    "runs": "Runs",
    "farm": "Members of the farm",
    "scores": "Scores",
    "tests": "Paired tests",
    "curves": "Curves",
    "labels": "Labels and tasks",
    "examples": "Predictions",
    "data": "Data: lengths and truncation",
    "prompt": "The prompt's rows",
    "machine": "Throughput and memory",
    "settings": "Settings that differ",
    "commands": "Commands",
}
MOST_EXAMPLES, LONGEST = 240, 600  # rows of predictions, characters of a text
MOST_METRICS = 8
Table = dict[str, Any]


PAGE = "report.html"


def write_report(places: Sequence[str], output: str | None = None) -> epath.Path:
    """Writes the page of one run, of a folder of runs, of several, or of a board (FILE.jsonl);
    returns its path.

    `output` is by default `report.html` in the one folder, or FILE.html.

    Raises:
      UserError: a folder holds no run; several places and no `output`; a board beside others.
    """
    if output is None and len(places) != 1:
        raise UserError(f"{len(places)} folders", remedy="give --output=FILE.html")
    board = next((place for place in places if place.endswith(".jsonl")), None)
    if board is not None and len(places) > 1:
        raise UserError(board, "is a board, which has a page of its own", "give it alone")
    first = epath.Path(places[0])
    if board is not None:
        page = render(context_of_board(first))
    else:
        farms = [row for place in places for row in boards.read_farm(epath.Path(place))]
        groups = grouped(places)
        tasks = [run.manifest.get("task") or "" for group in groups for run in group.runs]
        page = readable(render(context_of(groups, farms)), "+".join(tasks))
    beside = first.with_suffix(".html") if board is not None else first / PAGE
    path = epath.Path(output) if output else beside
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
    return path


def render(context: dict[str, Any]) -> str:
    """The page, as text, of a `context_of`."""
    import jinja2
    from markupsafe import Markup

    folder = resources.files("prompt_jax.inspect") / "page"

    def read(name: str) -> str:
        return (folder / name).read_text()

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    safe = {
        "uplot_css": read("uPlot.min.css"),
        "css": read("report.css"),
        "uplot_js": f"/*\n{read('uPlot.LICENSE')}*/\n{read('uPlot.iife.min.js')}",
        "js": read("report.js"),
        # Nothing in a script element may look like its end.
        "charts_json": json.dumps(context["charts"]).replace("<", "\\u003c"),
    }
    inlined = {name: Markup(text) for name, text in safe.items()}
    return environment.from_string(read("report.html")).render(context | inlined)


def context_of_board(path: epath.Path) -> dict[str, Any]:
    """What the template shows of a board."""
    cells = boards.read_board(path)
    commands = [cell["command"] for cell in cells if "command" in cell]
    sections: dict[str, Any] = dict.fromkeys(HEADINGS) | {
        "board": boards.board_of(cells),
        "tests": table(boards.board_tests(cells), ("difference", "interval", "p")),
        "commands": list(dict.fromkeys(commands)),
    }
    return _page(path.stem, 0, sections, charts=[], metric="")


def context_of(groups: Sequence[Group], farm: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What the template shows of runs, section by section; an empty section is left out.

    `farm`: the rows of `boards.read_farm`.
    """
    metrics = compare.metric_names(groups)
    drawn = charts.charts(groups, metrics[:MOST_METRICS])
    sections = {
        "board": None,
        "runs": _runs(groups),
        "farm": table(farm, list(farm[0])[-3:] if farm else ()),
        "scores": [_scores(groups, metric) for metric in metrics[:MOST_METRICS]],
        "tests": _tests(groups, metrics[0]) if len(groups) > 1 and metrics else None,
        "curves": drawn,
        "labels": [found for group in groups if (found := _labels(group))],
        "examples": _examples(groups),
        "data": _data(groups),
        "prompt": [prompt for group in groups for prompt in _prompts(group)],
        "machine": _machine(groups),
        "settings": _settings(groups),
        "commands": _commands(groups),
    }
    title = " and ".join(group.label for group in groups[:3]) + (" …" if len(groups) > 3 else "")
    metric = metrics[0] if metrics else ""
    return _page(title, len(groups), sections, charts=drawn, metric=metric)


def _page(
    title: str, groups: int, sections: dict[str, Any], charts: list[dict[str, Any]], metric: str
) -> dict[str, Any]:
    """The sections with what stands around them; those that hold nothing are not listed."""
    return {
        "title": title,
        "version": __version__,
        "headings": HEADINGS,
        "groups": groups,
        "warning": WARNING,
        "metric": metric,
        "charts": charts,
        **sections,
        "contents": [(name, text) for name, text in HEADINGS.items() if sections[name]],
    }


def table(rows: Sequence[dict[str, Any]], numbers: Sequence[str] = ()) -> Table | None:
    """Rows with the same keys, for the template; numbers stand to the right."""
    if not rows:
        return None
    values = [[_shown(value) for value in row.values()] for row in rows]
    return {"columns": list(rows[0]), "rows": values, "numbers": list(numbers)}


def _shown(value: Any) -> str:
    """A cell; sums of floats that should be zero are."""
    if value is None:
        return "-"
    value = 0.0 if isinstance(value, float) and abs(value) < 1e-12 else value
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _runs(groups: Sequence[Group]) -> Table | None:
    rows = []
    for group in groups:
        run, seeds = group.first, [r.seed for r in group.runs if r.seed is not None]
        manifest = run.manifest
        rows.append(
            {
                "runs": group.label,
                "method": manifest.get("method"),
                "task": manifest.get("task"),
                "backbone": manifest.get("backbone", {}).get("name"),
                "seeds": ", ".join(map(str, sorted(seeds))) or None,
                "step": max((r["step"] for one in group.runs for r in one.records), default=None),
                "of": run.settings.get("TRAIN_STEPS", run.settings.get("Train.steps")),
            }
        )
    return table(rows, ("step", "of"))


def _scores(groups: Sequence[Group], metric: str) -> dict[str, Any]:
    spreads = compare.spreads(groups, metric)
    values = [v for spread in spreads if spread for v in spread["values"]]
    low, high = min(values), max(values)
    room = (high - low) or 1.0

    def place(value: float) -> float:
        return round(4 + 92 * (value - low) / room, 1) if high > low else 50.0

    rows = []
    for group, spread in zip(groups, spreads, strict=True):
        if spread is None:
            continue
        left, right = spread["interval_95"] if spread["n"] > 1 else (spread["mean"],) * 2
        rows.append(
            {
                "label": group.label,
                "n": spread["n"],
                **{name: _shown(spread[name]) for name in ("mean", "std")},
                "std": _shown(spread["std"]) if spread["n"] > 1 else "-",
                "low": _shown(spread["min"]),
                "high": _shown(spread["max"]),
                "interval": f"{left:.4g} to {right:.4g}" if spread["n"] > 1 else "-",
                "each": ", ".join(f"{v:.4g}" for v in spread["values"]),
                "dot": place(spread["mean"]),
                "bar": (place(left), round(place(right) - place(left), 1)),
                "marks": [place(v) for v in spread["values"]] if spread["n"] > 1 else [],
            }
        )
    return {"metric": metric, "rows": rows}


def _tests(groups: Sequence[Group], metric: str) -> Table | None:
    rows = []
    for pair in compare.tests(groups, metric):
        for kind in ("seeds", "examples"):
            if kind in pair:
                found = pair[kind]
                low, high = found.get("interval", (None, None))
                rows.append(
                    {
                        "pair": f"{pair['a']} minus {pair['b']}",
                        "on": f"{found['n']} {kind}",
                        "difference": f"{found['difference']:+.4g}",
                        "interval": "-" if low is None else f"{low:+.4g} to {high:+.4g}",
                        "p": found.get("p"),
                    }
                )
    return table(rows, ("difference", "interval", "p"))


def _labels(group: Group) -> dict[str, Any] | None:
    """The confusion of a group's predictions, and its scores by label and by task."""
    rows = [row for run in group.runs for row in run.predictions()]
    labels = compare.labels_of(rows)
    found: dict[str, Any] = {"label": group.label, "runs": len(group.runs)}
    found |= {"confusion": None, "columns": [], "labels": None}
    if labels:
        counts = compare.confusion(rows, labels)
        shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
        found["columns"] = [*labels, compare.NO_LABEL]
        found["confusion"] = [
            {
                "label": label,
                "cells": [
                    {"count": int(c), "shade": round(0.75 * float(s), 2)}
                    for c, s in zip(counts[n], shares[n], strict=True)
                ],
            }
            for n, label in enumerate(labels)
        ]
        numbers = ("rows", "precision", "recall", "F1")
        found["labels"] = table(compare.by_label(counts, labels), numbers)
    found["tasks"] = _tasks(group)
    return found if labels or found["tasks"] else None


def _tasks(group: Group) -> Table | None:
    """The metrics of each task or language of a mixture: means over the group's runs."""
    names = dict.fromkeys(n for run in group.runs for n in run.scores() if "/" in n)
    if not names:
        return None
    tasks = dict.fromkeys(name.rpartition("/")[0] for name in names)
    metrics = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    if len(metrics) > len(tasks):  # held_out_loss/LANGUAGE
        tasks, metrics = dict.fromkeys(metrics), list(tasks)
        names = {f"{metric}/{task}": (task, metric) for task in tasks for metric in metrics}
    else:
        names = {f"{task}/{metric}": (task, metric) for task in tasks for metric in metrics}
    means = {}
    for name, place in names.items():
        values = group.values(name)
        means[place] = sum(values) / len(values) if values else None
    rows = [{"task": t, **{m: means.get((t, m)) for m in metrics}} for t in tasks]
    return table(rows, metrics)


def _examples(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Some of each kind, of the first run of each group."""
    shown, room = [], MOST_EXAMPLES // len(groups)
    for group in groups:
        rows = group.first.predictions()
        labels = set(compare.labels_of(rows))
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_kind.setdefault(compare.verdict(row, labels), []).append(row)
        for kind in ("wrong", compare.NO_LABEL, "right"):
            shown += [
                {
                    "kind": kind,
                    "run": group.label,
                    "score": _shown(row.get("score")),
                    **{name: _cut(row[name]) for name in ("inputs", "targets", "prediction")},
                }
                for row in by_kind.get(kind, [])[: room // max(len(by_kind), 1)]
            ]
    return shown


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _data(groups: Sequence[Group]) -> Table | None:
    rows = []
    for group in groups:
        for name, facts in group.first.facts.get("lengths", {}).items():
            for side in ("inputs", "targets"):
                told = facts[side]
                cut = told["truncated"]
                share = f" ({100 * cut / facts['examples']:.1f} %)" if facts["examples"] else ""
                rows.append(
                    {
                        "runs": group.label,
                        "task": name,
                        "side": side,
                        "examples": facts["examples"],
                        "median": told["percentiles"][0],
                        "95 %": told["percentiles"][1],
                        "longest": told["percentiles"][2],
                        "limit": told["limit"],
                        "cut": f"{cut}{share}",
                    }
                )
    return table(rows, ("examples", "median", "95 %", "longest", "limit", "cut"))


def _prompts(group: Group) -> list[dict[str, Any]]:
    facts = group.first.facts.get("prompt")
    if not facts:
        return []
    told, shown = facts["norms_of_pieces"], []
    for side, found in facts["sides"].items():
        drift = facts.get("drift", {}).get(side)
        note = (
            f"Compared with the {facts['compared_pieces']:,} commonest pieces, whose norms lie "
            f"between {told['5 %']:.3g} and {told['95 %']:.3g} (5 to 95 %; median "
            f"{told['50 %']:.3g}). Mean cosine between rows: {found['mean_cosine_of_rows']:.3f}."
        )
        if drift:
            note += (
                f" Since step 0 the rows have moved {drift['distance']:.3g} on average, "
                f"{100 * drift['relative']:.0f} % of their first norm. The cosine between "
                f"first and last is {drift['cosine']:.3f}."
            )
        rows = [
            {
                "row": n,
                "norm": row["norm"],
                "nearest by cosine": _pieces(row["cosine"]),
                "nearest by Euclidean distance": _pieces(row["euclid"]),
            }
            for n, row in enumerate(found["rows"])
        ]
        label = f"{group.first.name}: {side}"
        shown.append({"label": label, "note": note, "table": table(rows, ("row", "norm"))})
    return shown


def _pieces(pairs: Sequence[Sequence[Any]]) -> str:
    return "  ".join(f"{piece} ({value:.2f})" for piece, value in pairs[:3])


def _machine(groups: Sequence[Group]) -> Table | None:
    rows = []
    for group in groups:
        records = [r for run in group.runs for r in run.steps]
        settled = [r for run in group.runs for r in run.steps[1:]] or records

        def mean(name: str, some=settled) -> float | None:
            values = [r[name] for r in some if name in r]
            return sum(values) / len(values) if values else None

        def most(name: str, some=records) -> float | None:
            values = [r[name] for r in some if name in r]
            return max(values) / charts.GIB if values else None

        used, compiling = (
            mean("model_flops_utilisation"),
            [r.get("compile_seconds") for r in records],
        )
        seconds = [s for s in compiling if s is not None]
        rows.append(
            {
                "runs": group.label,
                "seconds per step": mean("seconds_per_step"),
                "tokens/s": mean("tokens_per_second"),
                "MFU": None if used is None else f"{100 * used:.3g} %",
                "compiling, s per run": sum(seconds) / len(group.runs) if seconds else None,
                "evaluating, s per run": sum(
                    r.get("seconds", 0.0) for run in group.runs for r in run.evaluations
                )
                / len(group.runs),
                "device GiB": most("device_peak_bytes"),
                "host GiB": most("host_peak_bytes"),
            }
        )
    return table(rows, list(rows[0])[1:])


def _settings(groups: Sequence[Group]) -> Table | None:
    labels = [group.label for group in groups]
    return table(
        [
            {"binding": name, **dict(zip(labels, values, strict=True))}
            for name, values in differing(groups)
        ]
    )


def _commands(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(line for g in groups for run in g.runs for line in _command(run)))


def _command(run: Run) -> list[str]:
    given = run.facts.get("commands")
    recipe = run.folder / "config.gin"
    return given or [f"prompt-jax train --gin_file={recipe} --model_dir=DIR"]
