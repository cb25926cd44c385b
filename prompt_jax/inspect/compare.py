"""Scores of runs side by side: spread over seeds, and tests of pairs on seeds and on examples."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_jax.inspect.runs import Group
from prompt_jax.run.seeds import LEVEL, spread_of

RESAMPLES = 2000
MOST_GROUPS, MOST_LABELS = 8, 24
NO_LABEL = "not a label"


def metric_names(groups: Sequence[Group]) -> list[str]:
    """Metrics of all tasks together, the one that chose the prompts first."""
    names = dict.fromkeys(n for g in groups for run in g.runs for n in run.scores() if "/" not in n)
    names.pop("step", None)
    chosen = [r.selection["metric"] for g in groups for r in g.runs if r.selection]
    return [*dict.fromkeys(n for n in chosen if n in names), *(n for n in names if n not in chosen)]


def spreads(groups: Sequence[Group], metric: str) -> list[dict[str, Any] | None]:
    """`spread_of` each group's values with their number `n`; None where a group has none."""
    values = [group.values(metric) for group in groups]
    return [spread_of(v) | {"n": len(v), "values": v} if v else None for v in values]


def verdict(row: dict[str, Any], labels: set[str]) -> str:
    """`right`, `wrong`, or `not a label` of the task."""
    said, wanted = str(row["prediction"]).strip(), str(row["targets"]).strip()
    if said == wanted:
        return "right"
    return NO_LABEL if labels and said not in labels else "wrong"


def labels_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The distinct targets, the commonest first; [] where there are too many for classes."""
    counts = Counter(str(row["targets"]).strip() for row in rows)
    few = 1 < len(counts) <= MOST_LABELS and len(counts) < max(len(rows), 2)
    return [label for label, _ in counts.most_common()] if few else []


def confusion(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> np.ndarray:
    """int [C, C + 1]: rows of each target by what was said; the last column is no label."""
    place = {label: n for n, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels) + 1), int)
    for row in rows:
        said = place.get(str(row["prediction"]).strip(), len(labels))
        table[place[str(row["targets"]).strip()], said] += 1
    return table


def by_label(table: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label, in percent, and how many rows want it."""
    rows = []
    for n, label in enumerate(labels):
        right, said, wanted = table[n, n], table[:, n].sum(), table[n].sum()
        precision, recall = right / max(said, 1), right / max(wanted, 1)
        f1 = 2 * precision * recall / max(precision + recall, 1e-12)
        shares = {"precision": precision, "recall": recall, "F1": f1}
        rows.append(
            {"label": label, "rows": int(wanted), **{k: 100 * float(v) for k, v in shares.items()}}
        )
    return rows


def tests(groups: Sequence[Group], metric: str) -> list[dict[str, Any]]:
    """Every two groups compared: on the seeds that both have, and on the examples of both."""
    pairs = itertools.combinations(groups[:MOST_GROUPS], 2)
    return [row for a, b in pairs if (row := _pair(a, b, metric))]


def _pair(a: Group, b: Group, metric: str) -> dict[str, Any]:
    found = {}
    by_seed = _on_seeds(a, b, metric)
    if by_seed is not None:
        found["seeds"] = by_seed
    by_example = _on_examples(a, b)
    if by_example is not None:
        found["examples"] = by_example
    return {"a": a.label, "b": b.label, **found} if found else {}


def _on_seeds(a: Group, b: Group, metric: str) -> dict[str, Any] | None:
    """Student's paired t-test of two groups' scores of the same seeds, of at least two."""
    scores = [{r.seed: s[metric] for r in g.runs if metric in (s := r.scores())} for g in (a, b)]
    seeds = sorted(seed for seed in scores[0] if seed in scores[1] and seed is not None)
    x, y = ([one[seed] for seed in seeds] for one in scores)
    return None if len(seeds) < 2 else paired_t(x, y)


def paired_t(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Student's paired t-test: `n`, `difference`, and `p` and `interval` unless all are equal."""
    from scipy import stats

    difference = np.subtract(x, y)
    facts = {"n": len(difference), "difference": float(difference.mean())}
    if not difference.std():
        return facts
    test = stats.ttest_rel(x, y)
    low, high = test.confidence_interval(LEVEL)
    return facts | {"p": float(test.pvalue), "interval": [float(low), float(high)]}


def _on_examples(a: Group, b: Group) -> dict[str, Any] | None:
    """Share of right examples, in percent, averaged over each group's runs: the difference, its
    percentile bootstrap over examples, and a test that flips signs."""
    right = [_right(group) for group in (a, b)]
    if right[0] is None or right[1] is None or right[0][0] != right[1][0]:
        return None
    difference = 100 * (right[0][1] - right[1][1])
    facts = {"n": len(difference), "difference": float(difference.mean())}
    rng = np.random.default_rng(0)
    draws = [rng.choice(difference, len(difference)).mean() for _ in range(RESAMPLES)]
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    flips = [(difference * rng.choice((-1, 1), len(difference))).mean() for _ in range(RESAMPLES)]
    more = np.abs(flips) >= abs(facts["difference"]) - 1e-9
    facts["p"] = float((more.sum() + 1) / (RESAMPLES + 1))
    return facts | {"interval": [float(q) for q in np.quantile(draws, tails)]}


def _right(group: Group) -> tuple[list[Any], np.ndarray] | None:
    """The examples of a group's predictions, and how often its runs were right about each."""
    asked, sums = None, None
    for run in group.runs:
        rows = run.predictions()
        examples = [(row.get("task"), row["inputs"], str(row["targets"])) for row in rows]
        right = np.array([verdict(row, set()) == "right" for row in rows], float)
        if not rows or (asked is not None and asked != examples):
            return None
        asked, sums = examples, right if sums is None else sums + right
    return None if asked is None or sums is None else (asked, sums / len(group.runs))
