"""An evaluation of a task: a split, and how its questions are answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jax.sharding import Mesh

from prompt_jax.answer.answerer import Answering
from prompt_jax.answer.journal import Journal
from prompt_jax.data.contract import Source
from prompt_jax.data.split import OfTasks, Sampling, Split, TaskText
from prompt_jax.errors import Setting, UserError
from prompt_jax.evaluate.scorer import TaskScorer
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.settings import at_least, settings


@dataclass(frozen=True)
class Evaluation:
    """A split, how it is answered, so many rows at once, and whether it is scored (`labelled`)."""

    split: Split
    answering: Answering = Answering()  # noqa: RUF009 (frozen)
    batch_size: int = 64
    labelled: bool = True

    def read(self) -> "HeldOutTask":
        """The split as text: what can be checked before any weight is read."""
        mode, count = self.answering.mode, self.split.shown.count
        if count and mode in ("retrieve", "mine"):
            raise UserError(
                f"{count} demonstrations (Data.demonstrations, --shots)",
                f"the mode {mode!r} compares inputs alone",
                "leave them out",
            )
        return HeldOutTask(self, self.split.read())


@dataclass(frozen=True)
class HeldOutTask(OfTasks):
    """The text of an evaluation."""

    evaluation: Evaluation
    text: TaskText

    def open(self, vocabulary, layout: PromptLayout, seed: int, mesh: Mesh) -> TaskScorer:
        """Scores a run's prompt; no number of it depends on the seed."""
        return self.scorer(vocabulary, [layout], mesh)

    def scorer(
        self,
        vocabulary,
        layouts: Sequence[PromptLayout],
        mesh: Mesh,
        journal: Journal | None = None,
    ) -> TaskScorer:
        """Scores prompts whose rows stand as `layouts` say; `journal` keeps every answer."""
        asked = self.evaluation
        sizes = (asked.batch_size, asked.answering)
        return TaskScorer(self.text, vocabulary, layouts, mesh, *sizes, journal, asked.labelled)


@settings
class PeriodicEvaluation:
    """Periodic evaluation of a run on a task: `Evaluation` in recipes.

    Attributes:
      period: steps between evaluations; there is also one at step 0 and one at the end.
      task: None: the task trained on.
      split: what is scored.
      batch_size: rows answered at once.
      max_examples: only the first so many.
      examples_per_class: only so many of each target, as in `Data`: a few-shot split for selection.
      sample_seed: which ones.
      mode: `generate`, `rank` (the likeliest of the task's choices), `retrieve`, `mine` or
        `head`; see `Answering`.
      beams: of the search; 1: greedy.
      length_normalised: `rank` compares log-likelihoods per token.
      constrained: `generate` writes nothing but the task's choices.
      separator: of `constrained`, between several choices that are one answer; None: one choice.
      labelled: False: the split has no labels, as that of a leaderboard; its answers are written to
        `predictions`, and nothing is scored.
    """

    period: int
    task: str | None = None
    split: str = "validation"
    batch_size: int = 64
    max_examples: int | None = None
    examples_per_class: int | None = None
    sample_seed: int = 0
    mode: Literal["generate", "rank", "retrieve", "mine", "head"] = "generate"
    beams: int = 1
    length_normalised: bool = False
    constrained: bool = False
    separator: str | None = None
    labelled: bool = True

    def check(self):
        counts = {
            "period": self.period,
            "batch_size": self.batch_size,
            "max_examples": self.max_examples,
            "examples_per_class": self.examples_per_class,
        }
        at_least(type(self).__name__, 1, counts)
        at_least(type(self).__name__, 0, {"sample_seed": self.sample_seed})
        try:
            _ = self.answering
        except UserError as error:
            assert isinstance(error.where, Setting)
            where = error.where._replace(owner=type(self).__name__)
            raise UserError(where, error.problem, error.remedy) from None

    @property
    def answering(self) -> Answering:
        """How questions are answered."""
        return Answering(
            mode=self.mode,
            beams=self.beams,
            length_normalised=self.length_normalised,
            constrained=self.constrained,
            separator=self.separator,
        )

    def of(self, data: Source) -> Evaluation:
        """The evaluation, its rows cut to the lengths of `data`, the run's.

        As many demonstrations as in training stand before them, drawn from what is trained on.
        """
        task = self.task or data.task
        if task is None:
            raise UserError(
                Setting(type(self).__name__, "task", None), "plain text has no task", "name one"
            )
        sampling = Sampling(self.examples_per_class, None, self.sample_seed, self.max_examples)
        limits = (data.input_length, data.target_length)
        split = Split(task, self.split, limits, sampling, data.shown(task))
        return Evaluation(split, self.answering, self.batch_size, self.labelled)

    def read(self, data: Source) -> HeldOutTask:
        """The examples of the split."""
        return self.of(data).read()

    def scored(self, data: Source) -> dict[str, str]:
        """What is scored, for the record: task and split; mode and limits if they are special."""
        special = {
            "mode": self.mode if self.mode != "generate" else None,
            "max_examples": self.max_examples,
            "examples_per_class": self.examples_per_class,
            "length_normalised": self.length_normalised,
            "constrained": self.constrained,
        }
        named = {name: value for name, value in special.items() if value}
        return {"task": self.task or data.task or "", "split": self.split, **named}
