"""What a benchmark runs on."""

import dataclasses
from collections.abc import Iterable

from prompt_jax.bench import peft
from prompt_jax.bench.lengths import MIXTURE, TASKS
from prompt_jax.errors import UserError
from prompt_jax.model.sizes import SIZES
from prompt_jax.model.t5 import T5Config
from prompt_jax.settings import settings


@settings
class Bench:
    """What a benchmark runs on.

    Attributes:
      size: the T5's shape, a name of `prompt_jax.model.sizes`.
      prompt: rows of the prompt.
      columns: encoder columns of a packed step, those of prompts not among them.
      batch: examples of a padded step.
      rounds: how often every side is measured.
      tasks: those of `tasks`.
      against: the other side; None: ours alone.
      members: of a farm.
      steps: of each command of a farm.
    """

    size: str = "t5_small"
    prompt: int = 100
    columns: int = 4096
    batch: int = 8
    rounds: int = 5
    tasks: tuple[str, ...] = ("copa", "wic", "rte", "cb", MIXTURE)
    against: str | None = None
    members: int = 8
    steps: int = 300

    def check(self):
        known("--size", self.size, SIZES)
        for task in self.tasks:
            known("--tasks", task, (*TASKS, MIXTURE))
        counts = {
            "prompt": self.prompt,
            "columns": self.columns,
            "batch": self.batch,
            "rounds": self.rounds,
            "members": self.members,
            "steps": self.steps,
        }
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"--{name}={value}", remedy="give at least 1")
        if self.against is not None:
            known("--against", self.against, peft.NEEDED)

    @property
    def config(self) -> T5Config:
        """The T5's shape, in float32 without dropout."""
        return dataclasses.replace(SIZES[self.size], dtype="float32", dropout_rate=0.0)


def known(flag: str, name: str, names: Iterable[str]) -> None:
    """UserError unless the name is one of these."""
    if name not in names:
        raise UserError(f"{flag}={name}", "unknown", f"give one of {', '.join(names)}")
