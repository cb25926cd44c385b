"""One recipe under several seeds: a run for each, and what their scores say together."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from prompt_jax import hosts
from prompt_jax.errors import UserError
from prompt_jax.run.log import read_metrics

RESAMPLES = 10_000
LEVEL = 0.95


def parse_seeds(text: str) -> list[int]:
    """The seeds of `--seeds=0,1,2`.

    >>> parse_seeds("0,1,2")
    [0, 1, 2]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(
            f"--seeds={text}", remedy="give different whole numbers, as in --seeds=0,1,2"
        )
    return [int(part) for part in parts]


def train_seeds(
    seeds: Sequence[int], model_dir: str, train_one: Callable[[int, str], Any]
) -> dict[str, Any]:
    """Runs `train_one(seed, folder)` for every seed in `model_dir/seed_N`, then sums up.

    Run again, finished seeds are left as they are. The summary is `model_dir/seeds.json`: for the
    metric that chose each run's checkpoint, or for every metric of the last evaluation where none
    did, the value of each seed and `spread_of` them.
    """
    folder, chosen = epath.Path(model_dir), None
    values: dict[int, dict[str, float]] = {}
    for seed in seeds:
        run = folder / f"seed_{seed}"
        chosen = train_one(seed, str(run))
        values[seed] = score_of(read_metrics(run), chosen)
    names = [name for name in values[seeds[0]] if all(name in v for v in values.values())]
    summary: dict[str, Any] = {
        "seeds": list(seeds),
        "chosen_by": chosen,
        "metrics": {
            name: {"values": [values[s][name] for s in seeds]}
            | spread_of([values[s][name] for s in seeds])
            for name in names
        },
    }
    if hosts.writes():
        (folder / "seeds.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def score_of(records: Sequence[dict[str, Any]], chosen: dict[str, Any] | None) -> dict[str, float]:
    """All numbers of the evaluation that chose the checkpoint, else of the last one."""
    evals = [r for r in records if r["kind"] == "eval"]
    if not evals:
        return {}
    record = evals[-1]
    if chosen:
        sign = 1 if chosen["direction"] == "max" else -1
        record = max(evals, key=lambda r: (sign * r[chosen["metric"]], -r["step"]))
    left_out = ("step", "seconds")
    numbers = {k: v for k, v in record.items() if isinstance(v, float) and k not in left_out}
    return numbers | {"step": float(record["step"])}


def spread_of(values: Sequence[float]) -> dict[str, Any]:
    """Mean, median, standard deviation (n - 1), extremes, quartiles, and an interval of the mean.

    The interval is the percentile bootstrap's at 95 % (Efron and Tibshirani 1993): honest about few
    seeds only in that it cannot be wider than their range.

    >>> spread_of([1.0, 2.0, 6.0])["median"]
    2.0
    """
    x = np.asarray(values, np.float64)
    draws = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {
        "mean": float(x.mean()),
        "median": float(np.median(x)),
        "std": float(x.std(ddof=1)) if len(x) > 1 else 0.0,
        "min": float(x.min()),
        "max": float(x.max()),
        "quartiles": [float(q) for q in np.quantile(x, [0.25, 0.75])],
        "interval_95": [float(q) for q in np.quantile(x[draws].mean(axis=1), tails)],
    }
