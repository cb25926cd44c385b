"""Live runs in a terminal: what they are at, how fast, how far. Read from their folders alone."""

import itertools
import math
import os
import time
from collections.abc import Sequence

from etils import epath
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from prompt_jax.errors import UserError
from prompt_jax.inspect.charts import GIB
from prompt_jax.inspect.runs import NO_METRICS, Run, find_runs

LEVELS = "▁▂▃▄▅▆▇█"
MOST_ROWS = 24  # runs in the table
PATIENCE = 60  # seconds that a folder is waited for which is not there
STALE = 120  # seconds without a record after which a run that is not over is marked


def watch(place: str, seconds: float, once: bool, console: Console | None = None) -> None:
    """Shows the runs of a folder until Ctrl-C, or once.

    Raises:
      UserError: with `once`, the folder holds no run. Without, a run in it is waited for, and the
        folder itself for a minute.
    """
    console = console or Console()
    begun = time.monotonic()
    if once:
        console.print(frame(find_runs(place), place, console.width, time.time()))
        return
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while epath.Path(place).exists() or time.monotonic() - begun < PATIENCE:
            live.update(_now(place, console.width), refresh=True)
            time.sleep(seconds)
    find_runs(place)


def _now(place: str, width: int) -> RenderableType:
    try:
        return frame(find_runs(place), place, width, time.time())
    except UserError as error:
        return Text(f"{error} (waiting for it)")


def frame(runs: Sequence[Run], place: str, width: int, now: float) -> RenderableType:
    """One picture of all runs; `width` in columns, `now` in seconds of the epoch."""
    live = [run for run in runs if not is_over(run)]
    shown = (live or list(runs))[:2]
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    title = f"{place}   {count}, {len(live)} not finished"
    parts: list[RenderableType] = [Text(title, no_wrap=True, overflow="ellipsis")]
    if len(runs) > 1:
        parts.append(_table(runs, width, now))
    parts += [_panel(run, width, now) for run in shown]
    return Group(*parts)


def last_step(run: Run) -> int:
    return max((record["step"] for record in run.records), default=0)


def steps_of(run: Run) -> int | None:
    """The last step that its config.gin asks for; None where it does not say it as a number."""
    value = run.settings.get("TRAIN_STEPS", run.settings.get("Train.steps", ""))
    return int(value) if value.isdecimal() else None


def is_over(run: Run) -> bool:
    steps = steps_of(run)
    return steps is not None and last_step(run) >= steps


def remaining(run: Run) -> float | None:
    """Seconds of the steps that are left, at the pace of the latest; evaluations are extra."""
    steps, records = steps_of(run), run.steps
    if steps is None or not records:
        return None
    return (steps - last_step(run)) * records[-1]["seconds_per_step"]


def _state(run: Run, now: float) -> str:
    if is_over(run):
        return "done"
    path = epath.Path(run.folder) / "metrics.jsonl"
    silent = now - path.stat().mtime
    return "running" if silent < STALE else f"silent {clock(silent)}"


def clock(seconds: float | None) -> str:
    """
    >>> clock(75), clock(4000), clock(None)
    ('1:15', '1:06:40', '-')
    """
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve of `width` characters at most; each stands for the mean of its share.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8), sparkline([2, 2], 8)
    ('▁▂▃▄▅▆▇█', '▁▁')
    """
    known = [value for value in values if math.isfinite(value)]
    count = min(width, len(known))
    if not count:
        return ""
    ends = [n * len(known) // count for n in range(count + 1)]
    means = [sum(known[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(LEVELS[int((len(LEVELS) - 1) * (mean - low) / span)] for mean in means)


def _metric(run: Run) -> str | None:
    """The metric that chooses the prompt, else the first of the latest evaluation."""
    if run.selection:
        return run.selection["metric"]
    last = run.evaluations[-1] if run.evaluations else {}
    return next((n for n, v in last.items() if n not in NO_METRICS and _number(v)), None)


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


COLUMNS = ("state", "step", "loss", "metric", "best", "ETA")
LEAST_NAME = 12  # characters of a run's name that are shown however narrow the terminal is


def _table(runs: Sequence[Run], width: int, now: float) -> Table:
    metrics = {_metric(run) for run in runs} - {None}
    named = metrics.pop() if len(metrics) == 1 else None
    columns = [named if named and name == "metric" else name for name in COLUMNS]
    columns += ["tokens/s"] * (width > 99)
    rows = [_cells(run, now)[: len(columns)] for run in runs[:MOST_ROWS]]
    taken = sum(max(map(len, cells)) + 1 for cells in zip(columns, *rows, strict=True))
    room = max(width - taken, LEAST_NAME)
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, cells in zip(short_names([run.name for run in runs], room), rows, strict=False):
        table.add_row(name, *cells)
    if len(runs) > MOST_ROWS:
        table.add_row(f"and {len(runs) - MOST_ROWS} more")
    return table


def short_names(names: Sequence[str], room: int) -> list[str]:
    """The names without the folders that all share; of long ones the end, which tells them apart.

    >>> short_names(["farm/members/LR_0.1-SEED_0", "farm/members/LR_0.3-SEED_0"], 10)
    ['….1-SEED_0', '….3-SEED_0']
    """
    shared = os.path.commonpath([os.path.dirname(name) for name in names])
    bare = [name.removeprefix(f"{shared}/") if shared else name for name in names]
    return [name if len(name) <= room else f"…{name[1 - room :]}" for name in bare]


def _cells(run: Run, now: float) -> list[str]:
    metric, records = _metric(run), run.steps
    values = [r[metric] for r in run.evaluations if metric in r] if metric else []
    best = run.scores().get(metric) if metric and values else None
    return [
        _state(run, now),
        f"{last_step(run)}/{steps_of(run) or '?'}",
        f"{records[-1]['loss_per_token']:.3f}" if records else "-",
        f"{values[-1]:.2f}" if values else "-",
        "-" if best is None else f"{best:.2f}",
        "-" if is_over(run) else clock(remaining(run)),
        f"{records[-1].get('tokens_per_second', math.nan):.0f}" if records else "-",
    ]


def _panel(run: Run, width: int, now: float) -> Panel:
    room = max(width - 44, 10)
    lines = Table.grid(padding=(0, 1))
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True, justify="right")
    records = run.steps
    losses = [record["loss_per_token"] for record in records]
    if losses:
        lines.add_row("loss", Text(sparkline(losses, room), style="cyan"), f"{losses[-1]:.4f}")
    last = run.evaluations[-1] if run.evaluations else {}
    names = [n for n, v in last.items() if n not in NO_METRICS and _number(v) and "/" not in n]
    for name in names[:4]:
        values = [r[name] for r in run.evaluations if name in r]
        lines.add_row(name[:20], Text(sparkline(values, room), style="green"), f"{values[-1]:.2f}")
    body: list[RenderableType] = [_bar(run, width), lines]
    if records:
        body.append(Text(_machine(run), no_wrap=True, overflow="ellipsis"))
    return Panel(Group(*body), title=f"{run.name}: {_state(run, now)}", title_align="left")


def _bar(run: Run, width: int) -> Text:
    step, steps = last_step(run), steps_of(run)
    room = max(width - 40, 10)
    filled = 0 if not steps else min(room * step // steps, room)
    eta = "" if is_over(run) else f"  ETA {clock(remaining(run))}"
    return Text.assemble(
        ("━" * filled, "blue"), ("─" * (room - filled), "dim"), f"  step {step}/{steps or '?'}{eta}"
    )


def _machine(run: Run) -> str:
    record = run.steps[-1]
    parts = [f"{record['seconds_per_step']:.3g} s/step"]
    if "tokens_per_second" in record:
        parts.append(f"{record['tokens_per_second']:.0f} tokens/s")
    if "model_flops_utilisation" in record:
        parts.append(f"{100 * record['model_flops_utilisation']:.1f} % of peak")
    for name, what in (("device_peak_bytes", "device"), ("host_peak_bytes", "host")):
        if name in record:
            parts.append(f"{what} {record[name] / GIB:.1f} GiB")
    return "  ".join(parts)
