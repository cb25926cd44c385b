"""Synthetic tasks: rows of random common words, so that anybody can run a recipe without data.

`synthetic?inputs=128&targets=16&examples=512`: words of an input and of a target, and examples of
`train`; `labels=4`: the target is one of so many words, which the first word of the input decides;
`seed=0`. What is not given has the values of `Synthetic`. A vocabulary of English makes about a
piece of each word.
"""

import dataclasses
import random
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from prompt_jax.errors import UserError

NAME = "synthetic"
WORDS = tuple(
    word
    for line in (
        "the of and to in is that it was for on are as with his they at be this from have or by",
        "one had not but what all were when we there can an your which their if do will each about",
        "how up out them then she many some so these would other into has more her two like him",
    )
    for word in line.split()
)


@dataclass(frozen=True)
class Synthetic:
    """Rows of random words.

    Attributes:
      inputs, targets: words of each.
      examples: of `train`; `validation` has an eighth of them, and at least one.
      labels: how many labels there are; 0: targets are random words too.
    """

    inputs: int = 64
    targets: int = 1
    examples: int = 512
    labels: int = 0
    seed: int = 0

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "validation")

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(sorted(WORDS[: self.labels]))

    def read(self, split: str) -> Iterator[dict]:
        """The rows of a split, the same at every call."""
        rng = random.Random(f"{self.seed} {split}")
        count = self.examples if split == "train" else max(1, self.examples // 8)
        for _ in range(count):
            words = rng.choices(WORDS, k=self.inputs)
            targets = rng.choices(WORDS, k=self.targets)
            if self.labels:
                targets = [WORDS[WORDS.index(words[0]) % self.labels]]
            yield {"inputs": " ".join(words), "targets": " ".join(targets)}


def names(name: str) -> bool:
    """Whether a task's name is that of synthetic rows."""
    return name.partition("?")[0] == NAME


def parse(name: str) -> Synthetic:
    """The rows that a name asks for.

    >>> parse("synthetic?inputs=8&labels=2").choices
    ('of', 'the')

    Raises:
      UserError: an option that there is not, or no whole number.
    """
    known = [field.name for field in dataclasses.fields(Synthetic)]
    values = {}
    for key, value in urllib.parse.parse_qsl(name.partition("?")[2], keep_blank_values=True):
        least = 0 if key in ("labels", "seed") else 1
        if key not in known:
            raise UserError(name, f"unknown option '{key}'", f"give some of {', '.join(known)}")
        if not value.isdecimal() or int(value) < least:
            raise UserError(name, f"{key}={value}", f"give a whole number from {least} on")
        values[key] = int(value)
    made = Synthetic(**values)
    if made.labels == 1 or made.labels > len(WORDS):
        raise UserError(name, f"labels={made.labels}", f"give 0, or 2 to {len(WORDS)}")
    return made
