"""What an evaluation will report, and what it cannot reach, known from its text alone.

A run asks before it reads a weight, and `doctor` asks the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_jax.answer.answerer import Answer, Answering
from prompt_jax.data import named
from prompt_jax.data.rows import Example
from prompt_jax.evaluate.task_metrics import task_metrics
from prompt_jax.jsonl import UNLABELLED
from prompt_jax.metrics.aggregate import combined

SAMPLE = 64  # examples that a metric is tried on


def metrics_of(
    examples_of: Mapping[str, Sequence[Example]], answering: Answering | None
) -> dict[str, float]:
    """The metrics of the right answers, by the names that an evaluation gives them.

    `examples_of`: the examples of each task, of which the first are tried.

    Raises:
      UserError: a metric that refuses its rows (such as a split without labels) or fails; a task
        without choices where answers are some of them.
    """
    by_task: dict[str, Mapping[str, float]] = {}
    mode = "generate" if answering is None else answering.mode
    for name, examples in examples_of.items():
        some = examples[:SAMPLE]
        choices = named.registered_choices(name)
        chooses = answering is not None and (mode == "rank" or answering.constrained)
        if chooses and not choices and any("choices" not in e for e in some):
            raise named.no_choices(name)
        right = [Answer(str(e["targets"]), 0.0, target_score=0.0) for e in some]
        texts = [answer.text for answer in right]
        metrics = task_metrics(named.sub_tasks(name)[0], some, right)
        for of_pieces in named.piece_metrics(name):
            metrics |= of_pieces(str.split)(texts, texts)
        if choices and mode == "generate":
            metrics.setdefault("not_a_label", 0.0)
        by_task[name] = metrics
    return combined(by_task)


def plainly(text: str, example: Mapping[str, Any], is_target: bool = False) -> str:
    """The postprocessing of a task that has none."""
    return text


def never_equal(
    task: str | Callable[..., Any], examples: Sequence[Example], vocabulary: Any
) -> dict[str, str]:
    """{target: what the vocabulary gives back} of targets that no output of a model can equal.

    What the task's postprocessing (`task` itself where it is a function) takes as equal is equal.
    """
    post = named.sub_tasks(task)[0].postprocess_fn if isinstance(task, str) else task
    seen: dict[str, str] = {}
    for example in examples:
        target = example["targets"]
        if not isinstance(target, str) or target in seen or target == UNLABELLED:
            continue
        back = vocabulary.decode(vocabulary.encode(target))
        if back != target:
            posted = [post(text, example=example, is_target=False) for text in (back, target)]
            back = target if posted[0] == posted[1] else back
        seen[target] = back
    return {target: back for target, back in seen.items() if target != back}


def undeclared(task: str, examples: Sequence[Example]) -> list[str]:
    """The targets of a task with labels that are none of them, each once."""
    choices = named.registered_choices(task)
    if not choices:
        return []
    known = {*choices, UNLABELLED}
    return [t for t in dict.fromkeys(str(e["targets"]) for e in examples) if t not in known]
