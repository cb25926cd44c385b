"""Metrics of GLUE and SuperGLUE beside accuracy, as T5 scores them; values are percentages.

They take texts, as `metrics_text` does, but for MultiRC's, which take what `multirc_answer` makes
of texts. A text that is no label counts as the wrong one, and one that is no number as -1.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import matthews_corrcoef as sklearn_matthews

from prompt_jax.metrics.text import Metric, check_scorable

Answer = Mapping[str, object]


def matthews_corrcoef(choices: Sequence[str]) -> Metric:
    """The metric {"matthews_corrcoef": percent}; a prediction that is no label is a class more."""
    labels = tuple(choices)

    def matthews_corrcoef(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        check_scorable(targets, predictions)
        ids = [
            [labels.index(t) if t in labels else -1 for t in ts] for ts in (targets, predictions)
        ]
        return {"matthews_corrcoef": 100.0 * float(sklearn_matthews(*ids))}

    return matthews_corrcoef


def f1_of(positive: str, negative: str) -> Metric:
    """The metric {"f1": percent} of the class `positive`."""

    def f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        check_scorable(targets, predictions)
        return {"f1": _f1(targets, predictions, positive, negative)}

    return f1


def _f1(targets: Sequence[str], predictions: Sequence[str], positive: str, negative: str) -> float:
    """F1 in percent where a prediction that is neither label is taken as the wrong one."""
    other = {positive: negative, negative: positive}
    pairs = list(zip(targets, predictions, strict=True))
    guesses = [guess if guess in other else other[target] for target, guess in pairs]
    hits = sum(t == p == positive for t, p in zip(targets, guesses, strict=True))
    total = sum(t == positive for t in targets) + guesses.count(positive)
    return 100.0 * 2 * hits / total if total else 0.0


def pearson_corrcoef(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """{"pearson_corrcoef": percent} of texts as numbers; 0 if all targets or predictions are one.

    >>> pearson_corrcoef(["1.0", "2.0"], ["0.2", "0.6"])
    {'pearson_corrcoef': 100.0}
    """
    return {"pearson_corrcoef": _correlation(*_numbers(targets, predictions))}


def spearman_corrcoef(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """{"spearman_corrcoef": percent}: as `pearson_corrcoef`, of mean ranks."""
    wanted, predicted = _numbers(targets, predictions)
    return {"spearman_corrcoef": _correlation(rankdata(wanted), rankdata(predicted))}


def _numbers(targets: Sequence[str], predictions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    check_scorable(targets, predictions)
    return np.array([_number(t) for t in targets]), np.array([_number(p) for p in predictions])


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if np.isfinite(value) else -1.0


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.round(100.0 * np.corrcoef(a, b)[0, 1], 10))


def multirc_answer(text: str, example: Mapping | None = None, is_target: bool = False) -> Answer:
    """SeqIO's postprocessing of MultiRC: the text, for a target with its question as `group`."""
    if not is_target:
        return {"value": text}
    assert example is not None, "SeqIO gives the example of a target"
    return {"value": text, "group": example["idx/question"]}


def multirc_f1(targets: Sequence[Answer], predictions: Sequence[Answer]) -> dict[str, float]:
    """{"f1": percent} of True over all answers of all questions."""
    wanted, predicted = _values(targets), _values(predictions)
    check_scorable(wanted, predicted)
    return {"f1": _f1(wanted, predicted, "True", "False")}


def multirc_exact_match(targets: Sequence[Answer], predictions: Sequence[Answer]) -> dict:
    """{"exact_match": percent of questions all of whose answers are judged right}."""
    wanted, predicted = _values(targets), _values(predictions)
    check_scorable(wanted, predicted)
    right = defaultdict(lambda: True)
    for target, value, guess in zip(targets, wanted, predicted, strict=True):
        right[target["group"]] &= value == guess
    return {"exact_match": 100.0 * sum(right.values()) / len(right)}


def _values(answers: Sequence[Answer]) -> list[str]:
    return [str(answer["value"]) for answer in answers]
