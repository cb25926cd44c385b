"""Task metrics over text, as SeqIO calls them: metric(targets, predictions) -> {name: value}.

Targets and predictions are lists of strings, compared exactly, as T5 compares labels. Values are
percentages (0 to 100) unless a name says count.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from prompt_jax.errors import UserError
from prompt_jax.jsonl import UNLABELLED

Metric = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions that equal their target, as {"accuracy": percent}.

    >>> accuracy(["yes", "no"], ["yes", "yes"])
    {'accuracy': 50.0}
    """
    check_scorable(targets, predictions)
    hits = sum(target == predicted for target, predicted in zip(targets, predictions, strict=True))
    return {"accuracy": 100.0 * hits / len(targets)}


def mean_class_f1(choices: Sequence[str]) -> Metric:
    """The metric {"mean_Nclass_f1": percent}: the plain mean of the F1 of each of N labels.

    A label that is neither a target nor predicted counts as 0, and a prediction that is no label
    is a miss: scikit-learn's macro F1 over these labels, which is how T5 scores SuperGLUE's CB.
    """
    labels = tuple(choices)

    def mean_class_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        check_scorable(targets, predictions)
        wanted, predicted = Counter(targets), Counter(predictions)
        hits = Counter(t for t, p in zip(targets, predictions, strict=True) if t == p)
        # F1 = 2 hits / (targets + predictions); the max only guards labels that never occur.
        scores = [2 * hits[c] / max(wanted[c] + predicted[c], 1) for c in labels]
        return {f"mean_{len(labels)}class_f1": 100.0 * sum(scores) / len(labels)}

    return mean_class_f1


def label_stats(choices: Sequence[str]) -> Metric:
    """The metric {"not_a_label": percent, "count/LABEL": rows, ...} of predictions.

    >>> label_stats(("yes", "no"))(["yes", "no"], ["yes", "maybe"])
    {'not_a_label': 50.0, 'count/yes': 1.0, 'count/no': 0.0}
    """
    labels = tuple(choices)

    def label_stats(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        check_lengths(targets, predictions)
        outputs = Counter(predictions)
        outside = len(predictions) - sum(outputs[label] for label in labels)
        counts = {f"count/{label}": float(outputs[label]) for label in labels}
        return {"not_a_label": 100.0 * outside / len(predictions), **counts}

    return label_stats


NOT_A_LABEL = "(not a label)"  # the column of all outputs that are none


def confusion(choices: Sequence[str]) -> Callable[..., dict[str, dict[str, int]]]:
    """A table {target: {output: rows}} over the labels; outputs that are none are one column.

    >>> confusion(("yes", "no"))(["yes", "no"], ["yes", "maybe"])["no"]
    {'yes': 0, 'no': 0, '(not a label)': 1}
    """
    labels = tuple(choices)

    def confusion(targets: Sequence[str], predictions: Sequence[str]) -> dict:
        check_lengths(targets, predictions)
        outputs = [text if text in labels else NOT_A_LABEL for text in predictions]
        counts = Counter(zip(targets, outputs, strict=True))
        columns = (*labels, NOT_A_LABEL)
        return {t: {c: counts[t, c] for c in columns} for t in dict.fromkeys((*labels, *targets))}

    return confusion


def check_scorable(targets: Sequence[str], predictions: Sequence[str]) -> None:
    """Refuses no rows at all, and rows without a label."""
    check_lengths(targets, predictions)
    if UNLABELLED in targets:
        raise UserError(
            "cannot score",
            f"{list(targets).count(UNLABELLED)} of {len(targets)} rows have no label "
            f"(target '{UNLABELLED}')",
            "choose a labelled split such as validation",
        )


def check_lengths(targets: Sequence, predictions: Sequence) -> None:
    """Refuses no rows at all."""
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    if not targets:
        raise UserError("cannot score", "there are no rows", "choose a split that has some")
