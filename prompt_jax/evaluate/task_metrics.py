"""A SeqIO task's own metrics of answers: functions of predictions or of scores, and objects.

SeqIO tells functions apart by their arguments: (targets, predictions), (targets, scores) and
(targets, predictions, aux_values); `metric_objs` by their `model_output_type`. A score is the
log-likelihood of the example's target, summed over its tokens with the EOS, as T5X gives it.
"""

import functools
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_jax.answer.answerer import Answer
from prompt_jax.data.named import PlainTask
from prompt_jax.errors import UserError, reading
from prompt_jax.splits import typed

if TYPE_CHECKING:
    import seqio

MEND = "mend it in the module of the task"


class _Text:
    """The vocabulary of texts that are decoded already."""

    def decode(self, text: Any) -> Any:
        return text


class _Feature:
    vocabulary = _Text()


def wants_scores(task: "PlainTask | seqio.Task") -> bool:
    """Whether a metric of the task is of the scores of its targets."""
    return bool(task.score_metric_fns) or any(_kind(m) == "SCORE" for m in own_objects(task))


def own_objects(task: "PlainTask | seqio.Task") -> Sequence[Any]:
    """The task's `metric_objs` as they were given: SeqIO adds one for each function."""
    objects = list(task.metric_objs)
    return objects[: len(objects) - len(task.metric_fns)]


def task_metrics(
    task: "PlainTask | seqio.Task", examples: Sequence[Mapping], answers: Sequence[Answer]
) -> dict[str, float]:
    """Every metric of a task, of the answers to its examples.

    Those of scores are left out where no answer has a `target_score`. A metric that is no number,
    such as a text or a histogram for TensorBoard, is left out too.

    Raises:
      UserError: what a metric or the task's postprocessing raises, by their name.
    """
    post = task.postprocess_fn
    with reading(f"postprocess_fn of task {typed(task.name)!r}", MEND):
        pairs = list(zip(answers, examples, strict=True))
        predictions = [post(answer.text, example=e, is_target=False) for answer, e in pairs]
        targets = [post(e["targets"], example=e, is_target=True) for e in examples]
    aux = {"scores": [answer.score for answer in answers]}
    scores = _scores(answers)
    calls = [(f, (targets, predictions)) for f in task.predict_metric_fns]
    calls += [(f, (targets, predictions, aux)) for f in task.predict_with_aux_metric_fns]
    if scores is not None:
        calls += [(f, (targets, scores)) for f in task.score_metric_fns]
    metrics: dict[str, float] = {}
    for function, arguments in calls:
        name = _name_of(function)
        with reading(f"metric {name!r} of task {typed(task.name)!r}", MEND):
            metrics |= _numbers(name, function(*arguments))
    for metric in own_objects(task):
        metrics |= _of_object(task, metric, examples, answers, scores)
    return metrics


def _scores(answers: Sequence[Answer]) -> np.ndarray | None:
    """float32 [examples]; None where they were not asked for."""
    scores = [answer.target_score for answer in answers]
    return None if None in scores else np.asarray(scores, np.float32)


def _kind(metric: Any) -> str:
    """The name of SeqIO's ModelOutputType."""
    return metric.model_output_type.name


def _of_object(
    task: "PlainTask | seqio.Task",
    metric: Any,
    examples: Sequence[Mapping],
    answers: Sequence[Answer],
    scores: np.ndarray | None,
) -> dict[str, float]:
    owner = metric if isinstance(metric, type) else type(metric)
    texts = np.array([answer.text for answer in answers], object)
    outputs = {
        "PREDICTION": texts,
        "PREDICTION_WITH_AUX": (texts, {"scores": np.array([a.score for a in answers])}),
        "SCORE": scores,
    }
    where = f"metric {owner.__name__!r} of task {typed(task.name)!r}"
    if _kind(metric) not in outputs:
        known = ", ".join(outputs)
        raise UserError(where, f"wants {_kind(metric)}", f"take a metric of {known}")
    if outputs[_kind(metric)] is None:
        return {}
    rows = [{**e, "targets_pretokenized": e["targets"]} for e in examples]
    features = {"targets": _Feature(), "inputs": _Feature()}
    with reading(where, MEND):
        made = metric.from_model_output(rows, outputs[_kind(metric)], features)
        if _collects(made):
            result, _ = made.actual_compute(rows, features)
        else:
            result = made.compute()
        named = result if isinstance(result, Mapping) else {owner.__name__: result}
        return _numbers(owner.__name__, named)


def _collects(metric: Any) -> bool:
    from seqio.metrics import CollectingMetric

    return isinstance(metric, CollectingMetric)


def _name_of(function: Any) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    plain = isinstance(inner, types.FunctionType | types.BuiltinFunctionType)
    return inner.__name__ if plain else type(inner).__name__


def _numbers(name: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a metric's values."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} gives a {type(values).__name__}, not a dict of numbers")
    numbers = {key: _number(value) for key, value in values.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def _number(value: Any) -> float | None:
    """A number, also out of SeqIO's `Scalar`; None for its other values."""
    if isinstance(value, int | float | np.number):
        return float(value)
    from seqio.metrics import MetricValue, Scalar

    if isinstance(value, Scalar):
        return float(value.value)
    return None if isinstance(value, MetricValue) else float(value)
