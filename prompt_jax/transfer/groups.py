"""Groups of tasks that share a prompt, by what each gains from the others: MVLPT.

After Shen et al. 2022 (https://arxiv.org/abs/2211.11720): a study of every two tasks, one the
source of the other, says which tasks help each other; those that do are trained as one group, from
a prompt that many sources have trained. Which groups follow from the numbers is our choice: two
groups are joined whose members gain most from each other in the mean, while that is above a
threshold, 0 points (agglomerative clustering, average linkage).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.tasks.mixtures import mixture_name
from prompt_jax.transfer.targets import REPORT, read_report


def gains_of(model_dirs: Sequence[str]) -> dict[tuple[str, str], float]:
    """{(source's task, target's task): points} of finished transfers (`spot transfer`), from their
    runs that begin with one source.

    Raises:
      UserError: a folder without a report, two of one target, or one without such a run.
    """
    gains: dict[tuple[str, str], float] = {}
    targets = set()
    for folder in model_dirs:
        report = read_report(folder)
        if not report:
            raise UserError(f"{folder}/{REPORT}", "is not there", "run `spot transfer` there first")
        target = report["target"]
        if target in targets:
            raise UserError(f"{folder}/{REPORT}", f"is a second one of {target!r}", "leave one out")
        targets.add(target)
        tasks = {row["source"]: row["task"] for row in report["ranking"]}
        rows = [row for row in report["runs"] if row["strategy"] == "best"]
        if not rows:
            raise UserError(f"{folder}/{REPORT}", "has no run from one source", "give best")
        for row in rows:
            gains[tasks[row["init"]], target] = float(row["gain"])
    return gains


def matrix_of(gains: Mapping[tuple[str, str], float]) -> tuple[list[str], np.ndarray]:
    """The tasks that are targets, in order, and float64 [N, N]: what the task of a column gains
    from that of a row; NaN where nothing says it."""
    names = sorted({target for _, target in gains})
    values = [[gains.get((source, target), np.nan) for target in names] for source in names]
    return names, np.array(values, np.float64).reshape(len(names), len(names))


def groups_of(gains_NN: np.ndarray, threshold: float = 0.0) -> list[list[int]]:
    """The numbers of the tasks of each group, by their first.

    Two tasks are as close as the mean of what each gains from the other, of which one may be
    unknown (NaN); where both are, they are not joined for each other's sake.

    >>> groups_of(np.array([[0.0, 2.0, -1.0], [1.0, 0.0, np.nan], [-3.0, np.nan, 0.0]]))
    [[0, 1], [2]]
    """
    both = np.stack([gains_NN, gains_NN.T])
    counts = (~np.isnan(both)).sum(axis=0)
    close = np.where(counts, np.nansum(both, axis=0) / np.maximum(counts, 1), -np.inf)
    groups = [[number] for number in range(len(gains_NN))]
    while len(groups) > 1:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
        linked = [float(close[np.ix_(groups[i], groups[j])].mean()) for i, j in pairs]
        best = int(np.argmax(linked))
        if not linked[best] > threshold:
            break
        i, j = pairs[best]
        joined = sorted(groups[i] + groups[j])
        groups = [group for n, group in enumerate(groups) if n not in (i, j)] + [joined]
    return sorted(groups)


def report_of(model_dirs: Sequence[str], threshold: float = 0.0) -> dict[str, Any]:
    """What `spot groups` prints: tasks, gains, groups and the mixture that trains each."""
    names, gains = matrix_of(gains_of(model_dirs))
    groups = [[names[number] for number in group] for group in groups_of(gains, threshold)]
    rows = []
    for group in groups:
        inside = [gains[names.index(a), names.index(b)] for a in group for b in group if a != b]
        known = [gain for gain in inside if not np.isnan(gain)]
        task = group[0] if len(group) == 1 else mixture_name(group)
        mean = float(np.mean(known)) if known else None
        rows.append(
            {"group": ", ".join(group), "tasks": len(group), "mean_gain": mean, "TASK": task}
        )
    listed = [[None if np.isnan(gain) else float(gain) for gain in row] for row in gains]
    return {"threshold": threshold, "tasks": names, "gains": listed, "groups": rows}
