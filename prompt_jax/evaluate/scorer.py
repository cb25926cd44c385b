"""Evaluation: answer a task's split, score it with the task's own SeqIO metrics, keep predictions.

The same `TaskScorer` serves the evaluations within a run and the `eval` verb (`evaluate_prompts`),
so that both print the same numbers for the same prompt.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from etils import epath
from jax.sharding import Mesh

from prompt_jax import hosts
from prompt_jax.answer.answerer import Answer, Answerer, Answering, Model, Question, nothing
from prompt_jax.answer.journal import Journal
from prompt_jax.data.source import Data, TaskText, TokenizedTask, tokenize_texts
from prompt_jax.errors import Setting, UserError
from prompt_jax.metrics import retrieval
from prompt_jax.metrics.aggregate import aggregates
from prompt_jax.metrics.text import confusion, label_stats
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import settings

# An `Evaluator` is `(graphdef, trainable, frozen, between) -> (metrics, predictions)`; it calls
# `between` before each batch, so that a long evaluation can be left.
MOST_LABELS = 64  # a task with more distinct targets is no classification

Answers = list[list[Answer]]  # by task, by example


@settings
class Evaluation:
    """Periodic evaluation of a run on a task.

    Attributes:
      period: steps between evaluations; there is also one at step 0 and one at the end.
      task: None: the task trained on.
      split: what is scored.
      batch_size: rows answered at once.
      max_examples: only the first so many.
      examples_per_class: only so many of each target, as in `Data`: a few-shot split for selection.
      sample_seed: which ones.
      mode: `generate`, `rank` (the likeliest of the task's choices), `retrieve` or `mine`; see
        `Answering`.
      beams: of the search; 1: greedy.
      length_normalised: `rank` compares log-likelihoods per token.
    """

    period: int
    task: str | None = None
    split: str = "validation"
    batch_size: int = 64
    max_examples: int | None = None
    examples_per_class: int | None = None
    sample_seed: int = 0
    mode: Literal["generate", "rank", "retrieve", "mine"] = "generate"
    beams: int = 1
    length_normalised: bool = False

    def check(self):
        if self.period < 1:
            raise UserError(Setting("Evaluation", "period", self.period), remedy="give at least 1")
        _ = self.answering

    @property
    def answering(self) -> Answering:
        return Answering(mode=self.mode, beams=self.beams, length_normalised=self.length_normalised)

    def read(self, data: Data) -> TaskText:
        """The examples of the split, cut to the lengths of `data`, the run's.

        As many demonstrations as in training stand before them, drawn from what is trained on.
        """
        task = self.task or data.task
        shots = data.demonstrations if isinstance(data, Data) else 0
        return Data(
            task=task,
            split=self.split,
            input_length=data.input_length,
            target_length=data.target_length,
            batch_size=self.batch_size,
            max_examples=self.max_examples,
            examples_per_class=self.examples_per_class,
            sample_seed=self.sample_seed,
            demonstrations=shots,
            demonstration_seed=data.demonstration_seed if shots else 0,
        ).read(dataclasses.replace(data, task=task) if shots else None)

    def scored(self, data: Data) -> dict[str, str]:
        """What is scored, for the record: task and split; mode and limits if they are special."""
        special = ("mode", "max_examples", "examples_per_class", "length_normalised")
        given = {name: value for name in special if (value := vars(self)[name])}
        given = {k: v for k, v in given.items() if (k, v) != ("mode", "generate")}
        return {"task": self.task or data.task, "split": self.split, **given}

    def open(self, text: TaskText, vocabulary, layout: PromptLayout, seed: int, mesh: Mesh):
        """An `Evaluator` of what `read` gave."""
        return TaskScorer(text, vocabulary, layout, mesh, self.answering)


class TaskScorer:
    """Answers one split of a task or mixture and applies the metrics of each task.

    Attributes:
      tasks: the tokenised tasks, in their order.
      choices: the label strings of each task; () where there are none.
      journal: keeps every answer on disk, and knows those that are there.
    """

    def __init__(
        self,
        text: TaskText,
        vocabulary,
        layouts: PromptLayout | Sequence[PromptLayout],
        mesh: Mesh,
        how: Answering = Answering(),  # noqa: B008 (frozen)
        journal: Journal | None = None,
    ):
        from prompt_jax.tasks.text import CHOICES, PIECE_METRICS, get_task

        data = text.data
        if data.demonstrations and how.mode in ("retrieve", "mine"):
            raise UserError(
                f"{data.demonstrations} demonstrations (Data.demonstrations, --shots)",
                f"the mode {how.mode!r} compares inputs alone",
                "leave them out",
            )
        limits = (data.input_length, data.target_length)
        self.answerer = Answerer(vocabulary, layouts, mesh, limits, data.batch_size, how)
        self.vocabulary, self.how, self.journal = vocabulary, how, journal
        self.tasks = text.tokenized(vocabulary)
        for task in self.tasks:
            for layout in self.answerer.layouts:
                _ = layout.rows(task.name)  # refuses a prompt that has no rows for the task
        self.seqio = {task.name: get_task(task.name) for task in self.tasks}
        self.choices = [CHOICES.get(task.name, ()) for task in self.tasks]
        self.piece_metrics = [
            [make(vocabulary.encode) for make in PIECE_METRICS.get(task.name, ())]
            for task in self.tasks
        ]

    def __call__(
        self, graphdef, trainable, frozen, between: Callable[[], None] = nothing
    ) -> tuple[dict[str, float], list[dict]]:
        """Metrics of all tasks (averages, and `TASK/METRIC` where there are several), predictions
        in the order of the source. The prompt of a task is that of its number."""
        return self.score(self.answer((graphdef, trainable, frozen), between))

    def answer(
        self, model: Model, between: Callable[[], None] = nothing, prompt: int | None = None
    ) -> Answers:
        """Every example's answer, with the prompt of its task's number, or with `prompt`."""
        numbers = [n if prompt is None else prompt for n in range(len(self.tasks))]
        if self.how.mode in ("retrieve", "mine"):
            return [self._find(model, between, t, n) for t, n in enumerate(numbers)]
        return self._split(self._ask(model, self.questions(numbers), between))

    def answer_all(self, model: Model, prompts: int) -> list[Answers]:
        """Every example's answer with each prompt of a bundle, all in the same batches."""
        if self.how.mode in ("retrieve", "mine"):
            return [self.answer(model, prompt=n) for n in range(prompts)]
        numbers = [[n] * len(self.tasks) for n in range(prompts)]
        said = self._ask(model, [q for ns in numbers for q in self.questions(ns)], nothing)
        size = len(said) // prompts
        return [self._split(said[n * size : (n + 1) * size]) for n in range(prompts)]

    def _ask(self, model: Model, questions: Sequence[Question], between) -> list[Answer]:
        if self.journal is None:
            return self.answerer(model, questions, between)
        return self.journal.complete(self.answerer, model, questions, between)

    def questions(self, prompts: Sequence[int]) -> list[Question]:
        """Every example of every task; the examples of task t get the prompt `prompts[t]`.

        Tasks share batches, but where they are ranked: their choices differ in shape.
        """
        apart = self.how.mode == "rank"
        return [
            Question(ids, prompts[t], self._choices_of(t, example), t * apart, seed, task.name)
            for t, task in enumerate(self.tasks)
            for seed, (ids, example) in enumerate(zip(task.inputs, task.examples, strict=True))
        ]

    def _choices_of(self, task: int, example: dict) -> tuple[str, ...]:
        """The example's own `choices`, else its task's; needed for ranking alone."""
        if self.how.mode != "rank":
            return ()
        choices = tuple(example.get("choices", self.choices[task]))
        if not choices:
            raise UserError(
                f"task {self.tasks[task].name!r}",
                "has no choices to rank",
                (
                    "declare choices=..., give its examples a list `choices`, or take the "
                    "mode 'generate'"
                ),
            )
        return choices

    def _split(self, answers: list[Answer]) -> Answers:
        ends = np.cumsum([len(task.inputs) for task in self.tasks])
        return [answers[e - len(t.inputs) : e] for t, e in zip(self.tasks, ends, strict=True)]

    def _find(self, model: Model, between, number: int, prompt: int) -> list[Answer]:
        """Answers by vectors: to every input one of the task's targets, or ""."""
        task = self.tasks[number]
        texts = {side: [str(e[side]) for e in task.examples] for side in ("inputs", "targets")}
        rows = {side: [i for i, text in enumerate(texts[side]) if text] for side in texts}
        vectors = {}
        for side, numbers in rows.items():
            some = [texts[side][i] for i in numbers]
            ids, _ = tokenize_texts(some, self.vocabulary, self.answerer.limits[0])
            questions = [Question(row, prompt, task=task.name) for row in ids]
            vectors[side] = self.answerer.embed(model, questions, between)
        pairs = _found(self.how.mode, vectors, texts, rows)
        said = {}
        for query, candidate, score in pairs:
            text = texts["targets"][rows["targets"][candidate]]
            said[rows["inputs"][query]] = (text, score)
        return [Answer(*said.get(i, ("", 0.0))) for i in range(len(task.examples))]

    def score(self, answers: Answers) -> tuple[dict[str, float], list[dict]]:
        """The metrics of answers, and one row per example for people to read."""
        by_task, predictions = {}, []
        for t, (task, said) in enumerate(zip(self.tasks, answers, strict=True)):
            texts = [answer.text for answer in said]
            by_task[task.name] = self._metrics(t, texts)
            predictions += prediction_rows(task, said)
        if len(by_task) == 1:
            return next(iter(by_task.values())), predictions
        flat = {f"{task}/{name}": v for task, m in by_task.items() for name, v in m.items()}
        shared = [n for n in next(iter(by_task.values())) if all(n in m for m in by_task.values())]
        mean = {name: float(np.mean([m[name] for m in by_task.values()])) for name in shared}
        return mean | aggregates(by_task) | flat, predictions

    def _metrics(self, number: int, texts: list[str]) -> dict[str, float]:
        """The task's own metrics, and the share of outputs that are none of its labels."""
        task = self.tasks[number]
        metrics = task_metrics(self.seqio[task.name], task, texts)
        for of_pieces in self.piece_metrics[number]:
            metrics |= of_pieces([example["targets"] for example in task.examples], texts)
        if self.choices[number] and self.how.mode == "generate":
            stats = label_stats(self.choices[number])(texts, texts)
            metrics.setdefault("not_a_label", stats["not_a_label"])
        return metrics

    def majority(self) -> dict[str, float]:
        """The metrics of answering every example of a task with its commonest target: what a
        classifier must beat. {} where there are too many targets for one."""
        counts = [Counter(e["targets"] for e in task.examples) for task in self.tasks]
        if any(len(count) > MOST_LABELS for count in counts):
            return {}
        common = [count.most_common(1)[0][0] for count in counts]
        pairs = zip(common, self.tasks, strict=True)
        return self.score([[Answer(text, 0.0)] * len(task.inputs) for text, task in pairs])[0]

    def confusion(self, answers: Answers) -> dict[str, dict[str, dict[str, int]]]:
        """{task: {target: {output: rows}}} of tasks with labels; outputs that are none are one."""
        return {
            task.name: confusion(labels)([e["targets"] for e in task.examples],
                                         [answer.text for answer in said])
            for task, labels, said in zip(self.tasks, self.choices, answers, strict=True)
            if labels
        }  # fmt: skip


def _found(mode: str, vectors, texts, rows) -> list[tuple[int, int, float]]:
    """(query, candidate, score) of every input that is answered."""
    queries, candidates = vectors["inputs"], vectors["targets"]
    if mode == "retrieve":
        found, cosines = retrieval.nearest(queries, candidates)
        return [(q, int(c), float(s)) for q, (c, s) in enumerate(zip(found, cosines, strict=True))]
    mined = retrieval.mine(queries, candidates)
    place = {row: c for c, row in enumerate(rows["targets"])}
    gold = {(q, place[row]) for q, row in enumerate(rows["inputs"]) if texts["targets"][row]}
    threshold = retrieval.best_threshold(mined, gold)
    return [(*pair, score) for pair, score in mined.items() if score >= threshold]


def task_metrics(task, tokenized: TokenizedTask, texts: Sequence[str]) -> dict[str, float]:
    """A SeqIO task's metrics of texts that were written for its examples."""
    examples, post = tokenized.examples, task.postprocess_fn
    pairs = zip(texts, examples, strict=True)
    predictions = [post(text, example=e, is_target=False) for text, e in pairs]
    targets = [post(e["targets"], example=e, is_target=True) for e in examples]
    metrics: dict[str, float] = {}
    for metric in task.predict_metric_fns:
        metrics |= {name: float(value) for name, value in metric(targets, predictions).items()}
    return metrics


def prediction_rows(task: TokenizedTask, answers: Sequence[Answer]) -> list[dict]:
    """One row per example, with its score; with those of all choices where there are some."""
    rows = []
    for e, answer in zip(task.examples, answers, strict=True):
        row = {"task": task.name, "inputs": e["inputs"], "targets": e["targets"]}
        row |= {"prediction": answer.text, "score": answer.score}
        rows.append(row if answer.scores is None else row | {"scores": answer.scores})
    return rows


def write_predictions(folder: epath.Path, name: str, rows: list[dict]) -> None:
    """`predictions/NAME.jsonl`, one example per line."""
    if rows and hosts.writes():
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "predictions" / f"{name}.jsonl").write_text(text)
