"""A head that is fitted to what a frozen model says of rows, saved, and loaded again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from prompt_jax.errors import UserError, reading
from prompt_jax.evaluate.evidence import Evidence, best_alpha
from prompt_jax.evaluate.gda import GDA
from prompt_jax.evaluate.members import PLACE, Members
from prompt_jax.evaluate.tfup import TFUP
from prompt_jax.evaluate.tfup_t import TFUPT
from prompt_jax.settings import settings

HEADS: dict[str, type[GDA] | type[TFUP] | type[TFUPT]] = {"gda": GDA, "tfup": TFUP, "tfup_t": TFUPT}
SAVED = "give a file that `prompt-jax untrained --output` wrote"


@settings
class Untrained:
    """What is asked for.

    Attributes:
      method: `gda`, `tfup`, `tfup_t` or `zpe`.
      templates: texts in which `{inputs}` is the row's; only `zpe` takes several.
      fit_split: the rows that a head is fitted to.
      per_class: so many of every label of them; None: all.
      sample_seed: which ones.
      alpha: what the head's scores are times; None: gda's is chosen on `dev_split`, a cache's
        is 1.
      dev_split: neither fitted nor scored.
      texts: a text file, whose lines tell zpe what each member says whatever it reads.
      best: zpe takes the surest member alone.
      head: a saved head, in place of fitting one.
    """

    method: str
    templates: tuple[str, ...] = (PLACE,)
    fit_split: str = "train"
    per_class: int | None = None
    sample_seed: int = 0
    alpha: float | None = None
    dev_split: str = "validation"
    texts: str | None = None
    best: bool = False
    head: str | None = None

    def check(self):
        if self.method not in (*HEADS, "zpe"):
            raise UserError(f"--method={self.method}", "unknown", f"give {', '.join(HEADS)} or zpe")
        if self.head is not None and not epath.Path(self.head).is_file():
            raise UserError(f"--head={self.head}", "no such file", SAVED)
        if self.texts is not None and not Path(self.texts).is_file():
            remedy = "give a file of one text a line"
            raise UserError(f"--texts={self.texts}", "no such file", remedy)
        for template in self.templates:
            if PLACE not in template:
                where = f"--template={template}"
                raise UserError(where, f"has no {PLACE}", f"say where {PLACE} stands")


@dataclass(frozen=True)
class Fitted:
    """A head, and what its scores are times."""

    head: GDA | TFUP | TFUPT
    alpha: float

    @property
    def numbers(self) -> int:
        """How many numbers a head has."""
        return sum(array.size for array in self.head.arrays.values())

    @classmethod
    def fitted(
        cls, how: Untrained, fitting: Evidence, dev: Evidence | None, labels: Sequence[str]
    ) -> "Fitted":
        """The head of rows; alpha as given, or chosen on `dev`, or the method's own."""
        kind = HEADS[how.method]
        if kind.needs_labels and (fitting.labels < 0).any():
            raise UserError(f"--fit_split={how.fit_split}", "has rows without a label of the task")
        head = kind.fit(fitting, labels)
        alpha = kind.alphas[0] if how.alpha is None else how.alpha
        if dev is not None:
            alpha = best_alpha(kind.alphas, dev.scores[0], head.added(dev), dev.labels)
        return cls(head, alpha)

    @classmethod
    def loaded(cls, how: Untrained, labels: Sequence[str], members: Members) -> "Fitted":
        """A saved head.

        Raises:
          UserError: it was fitted with another method, prompt, template, backbone or labels.
        """
        where = f"--head={how.head}"
        with (
            reading(where, SAVED),
            safetensors.safe_open(str(how.head), "numpy") as file,
        ):
            about = json.loads((file.metadata() or {})["prompt_jax"])
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
        for name, value in _about(how, labels, members).items():
            if about[name] != value:
                raise UserError(
                    where, f"has the {name} {about[name]!r}, not {value!r}", "fit it again"
                )
        return cls(HEADS[how.method](arrays), about["alpha"] if how.alpha is None else how.alpha)

    def save(self, path: str, how: Untrained, labels: Sequence[str], members: Members) -> None:
        """Writes the arrays, and what they belong to, as one safetensors file."""
        about = json.dumps({**_about(how, labels, members), "alpha": self.alpha})
        arrays = {name: np.ascontiguousarray(x) for name, x in self.head.arrays.items()}
        epath.Path(path).write_bytes(safetensors.numpy.save(arrays, {"prompt_jax": about}))


def _about(how: Untrained, labels: Sequence[str], members: Members) -> dict[str, Any]:
    """What a head belongs to."""
    (prompt,) = members.prompts
    return {
        "method": how.method,
        "labels": list(labels),
        "template": how.templates[0],
        "backbone": members.loaded.digest,
        "prompt": None if prompt is None else prompt.manifest.get("sha256", prompt.path),
    }
