"""Rows that stand above tasks: SuperGLUE's average, XTREME's, and the cross-lingual gap.

They are computed from the metrics of single tasks, by the names that tasks have here:
`super_glue_cb` and `taskless_super_glue_cb`; `xnli_sw` and whatever else holds the name of an
XTREME task and ends in `_LANGUAGE`. A benchmark counts only where all its tasks are there.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

Metrics = Mapping[str, float]

# The metrics whose plain mean is a task's score (Wang et al. 2019, https://super.gluebenchmark.com).
SUPER_GLUE = {
    "boolq": ("accuracy",),
    "cb": ("mean_3class_f1", "accuracy"),
    "copa": ("accuracy",),
    "multirc": ("f1", "exact_match"),
    "record": ("f1", "em"),
    "rte": ("accuracy",),
    "wic": ("accuracy",),
    "wsc": ("accuracy",),
}
# The same for XTREME, after a mean over languages (Hu et al. 2020, arxiv.org/abs/2003.11080).
XTREME = {
    "xnli": ("accuracy",),
    "pawsx": ("accuracy",),
    "udpos": ("tag_f1",),
    "panx": ("span_f1",),
    "xquad": ("f1", "em"),
    "mlqa": ("f1", "em"),
    "tydiqa": ("f1", "em"),
    "bucc": ("mining_f1",),
    "tatoeba": ("accuracy",),
}
SUPER_GLUE_NAME = re.compile(rf"(?:^|_)super_glue_({'|'.join(SUPER_GLUE)})(?:_|$)")
XTREME_NAME = re.compile(rf"(?:^|_)({'|'.join(XTREME)})(?:_.*)?_([a-z]{{2,3}})$")


def aggregates(by_task: Mapping[str, Metrics]) -> dict[str, float]:
    """Every row that these tasks allow: `super_glue`, `xtreme`, `TASK/mean`, `TASK/gap`."""
    return super_glue(by_task) | xtreme(by_task)


def combined(by_task: Mapping[str, Metrics]) -> dict[str, float]:
    """The metrics of an evaluation: of one task its own; of several the mean of those that all of
    them have, the rows above tasks, and each task's own as `TASK/METRIC`."""
    if len(by_task) == 1:
        return dict(next(iter(by_task.values())))
    shared = [n for n in next(iter(by_task.values())) if all(n in m for m in by_task.values())]
    mean = {name: fmean(float(m[name]) for m in by_task.values()) for name in shared}
    flat = {f"{task}/{name}": v for task, m in by_task.items() for name, v in m.items()}
    return mean | aggregates(by_task) | flat


def super_glue(by_task: Mapping[str, Metrics]) -> dict[str, float]:
    """{"super_glue": the mean of the eight tasks' scores}, or {} if one is not there."""
    scores = {
        match[1]: _score(metrics, SUPER_GLUE[match[1]])
        for task, metrics in by_task.items()
        if (match := SUPER_GLUE_NAME.search(task))
    }
    return {"super_glue": fmean(scores.values())} if set(scores) == set(SUPER_GLUE) else {}


def xtreme(by_task: Mapping[str, Metrics]) -> dict[str, float]:
    """`TASK/mean` over the languages of each XTREME task, `TASK/gap`, and `xtreme` of all nine."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for task, metrics in by_task.items():
        if match := XTREME_NAME.search(task):
            scores[match[1]][match[2]] = _score(metrics, XTREME[match[1]])
    rows: dict[str, float] = {}
    means = {task: fmean(by_language.values()) for task, by_language in scores.items()}
    for task, by_language in scores.items():
        if len(by_language) > 1:
            rows[f"{task}/mean"] = means[task]
            if "en" in by_language:
                rows[f"{task}/gap"] = cross_lingual_gap(by_language)
    if set(means) == set(XTREME):
        rows["xtreme"] = fmean(means.values())
    return rows


def cross_lingual_gap(by_language: Metrics, source: str = "en") -> float:
    """The source language's score less the mean of all others (Hu et al. 2020, section 5).

    >>> cross_lingual_gap({"en": 80.0, "de": 70.0, "sw": 50.0})
    20.0
    """
    return by_language[source] - fmean(v for name, v in by_language.items() if name != source)


def _score(metrics: Metrics, names: tuple[str, ...]) -> float:
    """The mean of the metrics that a benchmark names; NaN where the task does not give one."""
    return fmean(metrics.get(name, float("nan")) for name in names)
