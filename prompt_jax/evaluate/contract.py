"""What a run asks of its evaluation: when, what is read for it, and who scores."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

from jax.sharding import Mesh

from prompt_jax.answer.answerer import Answering, nothing
from prompt_jax.data.contract import Source, Text
from prompt_jax.prompt.layout import PromptLayout


class Evaluator(Protocol):
    """Scores a model on what was held out."""

    def __call__(
        self, graphdef: Any, trainable: Any, frozen: Any, between: Callable[[], None] = nothing
    ) -> tuple[dict[str, float], list[dict]]:
        """Metrics, and a row per example where there are examples; `between` is called before each
        batch, so that a long evaluation can be left."""
        ...

    def majority(self) -> dict[str, float]:
        """The metrics of always giving the commonest answer; {} where that means nothing."""
        ...


class HeldOut(Text, Protocol):
    """Text that is not trained on."""

    def open(self, vocabulary, layout: PromptLayout, seed: int, mesh: Mesh) -> Evaluator:
        """Tokenises; `layout`: where the rows of a run's prompt stand."""
        ...


@runtime_checkable
class RunEvaluation(Protocol):
    """What `Train.evaluation` may be: in recipes `Evaluation`, a task, or `HeldOutLoss`, text."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # settings are dataclasses

    @property
    def period(self) -> int:
        """Steps between evaluations."""
        ...

    @property
    def batch_size(self) -> int: ...

    @property
    def answering(self) -> Answering | None:
        """How questions are answered; None where nothing is asked."""
        ...

    def read(self, data: Source) -> HeldOut:
        """Reads or checks the files; `data`: what the run trains on."""
        ...

    def scored(self, data: Source) -> dict[str, str]:
        """What is scored, for the record: a task where there is one, and the split."""
        ...
