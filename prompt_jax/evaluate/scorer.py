"""Evaluation: answer a task's split, score it with the task's own SeqIO metrics, keep predictions.

The same `TaskScorer` serves the evaluations within a run and the `eval` verb (`evaluate_prompts`),
so that both print the same numbers for the same prompt.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from etils import epath
from jax.sharding import Mesh

from prompt_jax import hosts
from prompt_jax.answer.answerer import Answer, Answerer, Answering, Model, Question, nothing
from prompt_jax.answer.journal import Journal
from prompt_jax.data import named
from prompt_jax.data.rows import Rows, tokenize_texts
from prompt_jax.data.split import TaskText
from prompt_jax.evaluate.task_metrics import task_metrics, wants_scores
from prompt_jax.metrics import retrieval
from prompt_jax.metrics.aggregate import combined
from prompt_jax.metrics.text import confusion, label_stats
from prompt_jax.prompt.layout import PromptLayout

MOST_LABELS = 64  # a task with more distinct targets is no classification

Answers = list[list[Answer]]  # by task, by example


class TaskScorer:
    """Answers one split of a task or mixture and applies the metrics of each task.

    Attributes:
      tasks: the tokenised tasks, in their order.
      choices: the label strings of each task; () where there are none.
      journal: keeps every answer on disk, and knows those that are there.
      labelled: whether answers are scored.
    """

    def __init__(
        self,
        text: TaskText,
        vocabulary,
        layouts: Sequence[PromptLayout],
        mesh: Mesh,
        batch_size: int,
        answering: Answering = Answering(),  # noqa: B008 (frozen)
        journal: Journal | None = None,
        labelled: bool = True,
    ):
        limits = text.split.limits
        self.answerer = Answerer(vocabulary, layouts, mesh, limits, batch_size, answering)
        self.vocabulary, self.mode, self.journal = vocabulary, answering.mode, journal
        self.constrained = answering.constrained
        self.labelled = labelled
        self.tasks = text.rows(vocabulary)
        for task in self.tasks:
            for layout in self.answerer.layouts:
                _ = layout.rows(task.name)  # refuses a prompt that has no rows for the task
        self.by_name = {task.name: named.sub_tasks(task.name)[0] for task in self.tasks}
        self.choices = [named.registered_choices(task.name) for task in self.tasks]
        self.piece_metrics = [
            [make(vocabulary.encode) for make in named.piece_metrics(task.name)]
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
        if self.mode in ("retrieve", "mine"):
            answers = [self._find(model, between, t, n) for t, n in enumerate(numbers)]
        else:
            answers = self._by_task(self._ask(model, self.questions([numbers]), between))
        return self._with_target_scores(model, answers, numbers, between)

    def answer_all(self, model: Model, prompts: int) -> list[Answers]:
        """Every example's answer with each prompt of a bundle, all in the same batches."""
        if self.mode in ("retrieve", "mine"):
            return [self.answer(model, prompt=n) for n in range(prompts)]
        numbers = [[n] * len(self.tasks) for n in range(prompts)]
        answers = self._ask(model, self.questions(numbers), nothing)
        size = len(answers) // prompts
        by_prompt = [self._by_task(answers[n * size : (n + 1) * size]) for n in range(prompts)]
        return [
            self._with_target_scores(model, some, ns, nothing)
            for some, ns in zip(by_prompt, numbers, strict=True)
        ]

    def _with_target_scores(
        self, model: Model, answers: Answers, prompts: Sequence[int], between: Callable[[], None]
    ) -> Answers:
        """The answers with the log-likelihood of every target, of tasks whose metrics take it."""
        wanted = [t for t, task in enumerate(self.tasks) if wants_scores(self.by_name[task.name])]
        if not wanted:
            return answers
        answers = list(answers)
        ranker = Answerer(
            self.vocabulary,
            self.answerer.layouts,
            self.answerer.mesh,
            self.answerer.limits,
            self.answerer.batch_size,
            Answering(mode="rank"),
        )
        for t in wanted:
            task = self.tasks[t]
            questions = [
                Question(ids, prompts[t], (str(e["targets"]),), task=task.name)
                for ids, e in zip(task.inputs, task.examples, strict=True)
            ]
            scores = [ranked.score for ranked in ranker(model, questions, between)]
            pairs = zip(answers[t], scores, strict=True)
            answers[t] = [answer._replace(target_score=score) for answer, score in pairs]
        return answers

    def _ask(self, model: Model, questions: Sequence[Question], between) -> list[Answer]:
        if self.journal is None:
            return self.answerer(model, questions, between)
        return self.journal.complete(self.answerer, model, questions, between)

    def questions(self, prompts: Sequence[Sequence[int]]) -> Sequence[Question]:
        """Every example of every task, once for each of `prompts`, which names a prompt for each
        task by its number.

        Tasks share batches, but where they are ranked: their choices differ in shape.
        """
        parts = [(t, prompt) for numbers in prompts for t, prompt in enumerate(numbers)]
        return Questions(
            [partial(self._question, t, prompt) for t, prompt in parts],
            [len(self.tasks[t]) for t, _ in parts],
        )

    def _question(self, number: int, prompt: int, row: int) -> Question:
        task = self.tasks[number]
        ranks = self.mode == "rank"
        chooses = ranks or self.constrained
        choices = named.choices_in(task.name, task.examples[row]) if chooses else ()
        group = number * ranks
        return Question(task.inputs[row], prompt, choices, group, row, task.name)

    def _by_task(self, answers: list[Answer]) -> Answers:
        ends = np.cumsum([len(task) for task in self.tasks])
        return [answers[e - len(t) : e] for t, e in zip(self.tasks, ends, strict=True)]

    def _find(self, model: Model, between, number: int, prompt: int) -> list[Answer]:
        """Answers by vectors: to every input one of the task's targets, or ""."""
        task = self.tasks[number]
        texts = {side: [str(e[side]) for e in task.examples] for side in ("inputs", "targets")}
        rows = {side: [i for i, text in enumerate(texts[side]) if text] for side in texts}
        vectors = {}
        for side, numbers in rows.items():
            some = [texts[side][i] for i in numbers]
            ids = tokenize_texts(some, self.vocabulary, self.answerer.limits[0])
            questions = [Question(row, prompt, task=task.name) for row in ids]
            vectors[side] = self.answerer.embed(model, questions, between)
        pairs = _found(self.mode, vectors, texts, rows)
        by_row = {}
        for query, candidate, score in pairs:
            text = texts["targets"][rows["targets"][candidate]]
            by_row[rows["inputs"][query]] = (text, score)
        return [Answer(*by_row.get(i, ("", 0.0))) for i in range(len(task.examples))]

    def score(self, answers: Answers) -> tuple[dict[str, float], list[dict]]:
        """The metrics of answers, and one row per example for people to read."""
        by_task, predictions = {}, []
        for t, (task, own) in enumerate(zip(self.tasks, answers, strict=True)):
            by_task[task.name] = self._metrics(t, own)
            predictions += prediction_rows(task, own)
        return combined(by_task), predictions

    def _metrics(self, number: int, answers: Sequence[Answer]) -> dict[str, float]:
        """The task's own metrics, and the share of outputs that are none of its labels; {} of rows
        without labels."""
        if not self.labelled:
            return {}
        task, texts = self.tasks[number], [answer.text for answer in answers]
        metrics = task_metrics(self.by_name[task.name], task.examples, answers)
        for of_pieces in self.piece_metrics[number]:
            metrics |= of_pieces([example["targets"] for example in task.examples], texts)
        if self.choices[number] and self.mode == "generate":
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
        return self.score([[Answer(text, 0.0)] * len(task) for text, task in pairs])[0]

    def confusion(self, answers: Answers) -> dict[str, dict[str, dict[str, int]]]:
        """{task: {target: {output: rows}}} of tasks with labels; outputs that are none are one."""
        return {
            task.name: confusion(labels)(
                [e["targets"] for e in task.examples], [answer.text for answer in own]
            )
            for task, labels, own in zip(self.tasks, self.choices, answers, strict=True)
            if labels
        }


class Questions(Sequence):
    """Questions that are laid out when they are asked for.

    `makes[n]` gives the questions of part n by number, of which there are `sizes[n]`.
    """

    def __init__(self, makes: Sequence[Callable[[int], Question]], sizes: Sequence[int]):
        self._makes, self._starts = makes, np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number):
        number = range(len(self))[number]
        part = int(np.searchsorted(self._starts, number, "right")) - 1
        return self._makes[part](int(number - self._starts[part]))


def _found(mode: str, vectors, texts, rows) -> list[tuple[int, int, float]]:
    """(query, candidate, score) of every input that is answered."""
    queries, candidates = vectors["inputs"], vectors["targets"]
    if mode == "retrieve":
        neighbours, cosines = retrieval.nearest(queries, candidates)
        return [
            (q, int(c), float(s)) for q, (c, s) in enumerate(zip(neighbours, cosines, strict=True))
        ]
    mined = retrieval.mine(queries, candidates)
    place = {row: c for c, row in enumerate(rows["targets"])}
    gold = {(q, place[row]) for q, row in enumerate(rows["inputs"]) if texts["targets"][row]}
    threshold = retrieval.best_threshold(mined, gold)
    return [(*pair, score) for pair, score in mined.items() if score >= threshold]


def prediction_rows(task: Rows, answers: Sequence[Answer]) -> list[dict]:
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
