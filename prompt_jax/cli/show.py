"""How verbs report: JSON on standard output, a table, or rows one value per line."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Prints `value` as indented JSON; scalars of numpy and JAX become floats."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=float))


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows that share their keys as a table, as wide as the terminal (80 in a file).

    A word is never broken: a table that is too narrow for its longest words is printed as
    `print_rows` does.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, least = Console(), _widths(rows)
    if not _fits(least, console.width):
        print_rows(title, rows)
        return
    table = Table(title=Text(title), title_justify="left")
    widths = _shared(rows, least, console.width) if rows else []
    for column, width in zip(rows[0] if rows else (), widths, strict=True):
        table.add_column(column, width=width)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


def _shared(rows: Sequence[Mapping[str, Any]], least: Sequence[int], room: int) -> list[int]:
    """Widths of columns: as wide as their texts, less where that is too much for all, never less
    than `least`, which fits."""
    from rich.cells import cell_len

    widths = [
        max(cell_len(text) for text in (name, *(_cell(row[name]) for row in rows)))
        for name in rows[0]
    ]
    while not _fits(widths, room):
        spare = [width - low for width, low in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    return widths


def _widths(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Least width of each column: its longest word, and of the first its longest cell."""
    from rich.cells import cell_len

    if not rows:
        return []
    cells = [[_cell(value) for value in row.values()] for row in rows]
    widths = [
        max(cell_len(word) for text in (name, *column) for word in text.split() or [""])
        for name, column in zip(rows[0], zip(*cells, strict=True), strict=True)
    ]
    return [max(widths[0], *(cell_len(row[0]) for row in cells)), *widths[1:]]


def _fits(widths: Sequence[int], room: int) -> bool:
    return sum(widths) + 3 * len(widths) + 1 <= room  # rich's borders and padding


def print_confusion(title: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Prints {target: {output: rows}}; outputs are numbered where their names do not fit."""
    from rich.console import Console

    rows = [{"target": target, **outputs} for target, outputs in counts.items()]
    if not _fits(_widths(rows), Console().width):
        number = {name: str(n) for n, name in enumerate(counts, start=1)}
        rows = [
            {
                "target": f"{number[target]} {target}",
                **{number.get(name, "none"): value for name, value in outputs.items()},
            }
            for target, outputs in counts.items()
        ]
        title += " (by the number of its label; none: not a label)"
    print_table(title, rows)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Prints a mapping as a table of two columns, or as lines where a value has no room in one."""
    from rich.console import Console

    rows = [{"name": name, "value": value} for name, value in facts.items()]
    if _fits(_widths(rows), Console().width):
        print_table(title, rows)
        return
    print(title)
    for name, value in facts.items():
        print(f"{name}: {_cell(value)}")


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints long rows, one `key: value` a line and an empty line between rows."""
    print(title)
    for row in rows:
        print()
        for name, value in row.items():
            print(f"{name}: {_cell(value)}")


def print_plans(plans: Sequence[Mapping[str, Any]], operative: str, json: bool) -> None:
    """What `--dry_run` reports: every binding in force, then a table of each run.

    Of members of a farm one table says what they share, and another where they differ.
    """
    if json:
        print_json({"config": operative, "plans": list(plans)})
        return
    if operative:
        print(operative)
    members = [plan for plan in plans if "member" in plan]
    for plan in (plan for plan in plans if "member" not in plan):
        facts = {name: value for name, value in plan.items() if value not in ({}, [])}
        print_facts(str(facts.pop("model_dir", facts.get("task", ""))), facts)
    if members:
        first = members[0]
        shared = [n for n in first if all(m.get(n) == first[n] for m in members)]
        print_facts("every member", {n: first[n] for n in shared if first[n] not in ({}, [])})
        apart = [n for n in first if n not in shared]
        print_table("members", [{n: member.get(n) for n in apart} for member in members])
    print("dry run: no weight was read, and nothing was written")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | dict) and not value:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_entry(item)}" for name, item in value.items())
    return "-" if value is None else str(value)


def _entry(value: Any) -> str:
    """A value within a mapping: the numbers of a list, such as a shape, are kept together."""
    text = _cell(value)
    return f"[{text}]" if isinstance(value, list | tuple) and value else text
