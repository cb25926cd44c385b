"""Who is told what happens in a run: TensorBoard, a report, trackers of experiments.

The trainer knows this contract alone. What observes is handed in by the program (`cli`, `api`), and
changes nothing of what is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from etils import epath

from prompt_jax.backbone.load import Backbone
from prompt_jax.run.settings import Train

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Opened:
    """A run that is about to take steps.

    Attributes:
      run: its settings.
      folder: its model_dir.
      start: the step that it goes on from.
      operative: the recipe as it was read, in gin's words.
      records: those of metrics.jsonl so far.
      say: prints a line for the person who watches.
      backbone: the frozen T5.
      lengths: of the text that is trained on, by task (`TaskBatches.lengths`); {} of a corpus.
      begin: gives the arrays of the prompt at step 0, folded as an artefact's.
    """

    run: Train
    folder: epath.Path
    start: int
    operative: str
    records: Sequence[Record]
    say: Callable[[str], None]
    backbone: Backbone
    lengths: Mapping[str, Any]
    begin: Callable[[], Mapping[str, np.ndarray]]


class Observer(Protocol):
    """Follows runs, one after the other; only in the process that writes."""

    def start(self, opened: Opened) -> None:
        """A run begins, or goes on."""

    def log(self, record: Record) -> None:
        """A record of metrics.jsonl: `step`, `kind` ("train" or "eval") and numbers."""

    def evaluated(self, record: Record, predictions: Sequence[Record]) -> None:
        """An evaluation: its record, which was logged before, and the rows of its predictions."""

    def finished(self) -> None:
        """The run has ended or was left; all its files are there."""
