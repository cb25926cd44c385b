"""The curves of runs, as data for charts: means over seeds with bands, on one axis of steps."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from prompt_jax.inspect.runs import Group, Run

MOST_POINTS = 800
GIB = float(1 << 30)
# field of a training record: (title, unit, factor); the last ones are of the machine.
_TRAIN = {
    "loss_per_token": ("Training loss", "nats per target token", 1.0),
    "accuracy": ("Training accuracy", "share of target tokens", 1.0),
    "grad_norm": ("Norm of the gradient", "", 1.0),
    "trainable_norm": ("Norm of what is trained", "", 1.0),
}
_MACHINE = {
    "tokens_per_second": ("Throughput", "tokens of text per second", 1.0),
    "model_flops_utilisation": ("Model FLOP utilisation", "percent of the devices' peak", 100.0),
    "input_share": ("Waiting for batches", "percent of the time", 100.0),
    "device_peak_bytes": ("Peak memory of the fullest device", "GiB", 1 / GIB),
    "host_peak_bytes": ("Peak memory of the host", "GiB", 1 / GIB),
}
_LOG = ("loss_per_token", "grad_norm")


def charts(groups: Sequence[Group], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One for each quantity that some run has; `machine` marks those of the machine."""
    found = []
    for name, (title, unit, factor) in (_TRAIN | _MACHINE).items():
        facts = {"title": title, "unit": unit, "machine": name in _MACHINE}
        facts["zero"] = name in _MACHINE
        found.append(facts | _curves(groups, lambda run: run.steps, name, factor))
        found[-1]["log"] = name in _LOG and _positive(found[-1])
    scored = [
        {"title": name, "unit": "evaluation", "machine": False, "zero": False, "log": False}
        | _curves(groups, lambda run: run.evaluations, name, 1.0)
        for name in metrics
    ]
    kept = [chart for chart in [found[0], *scored, *found[1:]] if chart["series"]]
    return [chart | {"summary": summary(chart)} for chart in kept]


def summary(chart: dict[str, Any]) -> str:
    """The last value of each line, in words."""
    return "; ".join(f"{one['label']}: last {last(one['y']):.4g}" for one in chart["series"])


def last(values: Sequence[float | None]) -> float:
    return next(value for value in reversed(values) if value is not None)


def _positive(chart: dict[str, Any]) -> bool:
    return all(v is None or v > 0 for one in chart["series"] for v in (*one["y"], *one["low"]))


def _curves(
    groups: Sequence[Group],
    records: Callable[[Run], list[dict[str, Any]]],
    name: str,
    factor: float,
) -> dict[str, Any]:
    by_group = []
    for group in groups:
        runs = [
            {r["step"]: factor * r[name] for r in records(run) if _is_number(r.get(name))}
            for run in group.runs
        ]
        by_group.append([curve for curve in runs if curve])
    steps = thinned(sorted({step for runs in by_group for curve in runs for step in curve}))
    series = []
    for group, runs in zip(groups, by_group, strict=True):
        if not runs:
            continue
        at = [[curve[step] for curve in runs if step in curve] for step in steps]
        mean = [sum(values) / len(values) if values else None for values in at]
        low, high = ([pick(v) if v else None for v in at] for pick in (min, max))
        several = len(runs) > 1
        series.append(
            {
                "label": group.label,
                "y": mean,
                "low": low if several else [],
                "high": high if several else [],
            }
        )
    return {"x": steps, "series": series}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def thinned(steps: list[int]) -> list[int]:
    """At most MOST_POINTS of the steps, the first and the last among them."""
    if len(steps) <= MOST_POINTS:
        return steps
    return [steps[n * (len(steps) - 1) // (MOST_POINTS - 1)] for n in range(MOST_POINTS)]
