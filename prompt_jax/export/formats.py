"""A prompt in the formats of other programs: one module per format, and what they share.

Each module has four functions:

  refusal(prompt)               what of a `Prompt` the format cannot hold, in words, or None
  write(path, prompt, about)    writes a `Prompt` to a local path that does not exist yet; returns
                                its arrays as the consumer names them, where it has other names
  consume(path, request)        what the format's own reader makes of it: see `fresh.py`
  read(path)                    a `Prompt` of such a file or folder; its manifest is {} where the
                                format has none

A new one needs a line in FORMATS and a module of its own. A backbone that prompts are merged into
(`merges`) is written by `merge.py`.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.model.bundle import rank_of
from prompt_jax.settings import nearest

if TYPE_CHECKING:
    from prompt_jax.backbone.load import Backbone
    from prompt_jax.model.t5 import T5Config
    from prompt_jax.prompt.artefact import Prompt


@dataclass(frozen=True)
class Format:
    """What is known of a format before anything heavy is imported.

    Attributes:
      module: where `write`, `consume` and `read` are.
      consumer: the distributions that read it, the principal first; each is imported by its name.
      extra: of this package, that installs them; None: the base install has them.
      plain: a forward pass of ours takes what its reader gives as rows before the text.
      suffix: how its paths end; "" for a folder.
      forward: its consumer can run a model, so that logits are compared as well as rows.
      whole: it is a model with its prompt; its own `run.py` reads it, without this package.
      merges: it is a backbone, into whose weights a prompt is merged (`merge.py`).
    """

    module: str
    consumer: tuple[str, ...]
    extra: str | None = None
    plain: bool = True
    suffix: str = ""
    forward: bool = False
    merges: bool = False
    whole: bool = False

    def load(self) -> Any:
        """The format's module."""
        return importlib.import_module(self.module)


FORMATS = {
    "npy": Format("prompt_jax.export.npy", ("numpy",), suffix=".npy"),
    "peft": Format(
        "prompt_jax.export.peft", ("peft", "transformers", "torch"), "parity", forward=True
    ),
    "t5x": Format("prompt_jax.export.t5x", ("tensorstore", "flax", "msgpack")),
    "orbax": Format("prompt_jax.export.orbax", ("orbax-checkpoint", "tensorstore"), plain=False),
    "stablehlo": Format("prompt_jax.export.stablehlo", ("jax",), plain=False, whole=True),
    "saved_model": Format(
        "prompt_jax.export.saved_model",
        ("tensorflow", "tensorflow-text"),
        plain=False,
        whole=True,
    ),
    "hf": Format(
        "prompt_jax.export.hf", ("transformers", "torch"), "parity", plain=False, merges=True
    ),
}
MODULES = {
    "orbax-checkpoint": "orbax.checkpoint",
    "tensorflow-text": "tensorflow_text",
}  # distribution: what to import, if not its name


@dataclass(frozen=True)
class About:
    """What a format may want to say of a prompt beside its rows; None: not known."""

    backbone: str | None = None
    config: "T5Config | None" = None
    step: int = 0
    loaded: "Backbone | None" = None
    weights_inside: bool = False

    def backbone_of(self, name: str) -> "Backbone":
        """The backbone, for a format that holds one."""
        if self.loaded is None:
            problem = f"--format={name} holds a whole model, and no backbone is named"
            raise UserError("--backbone", problem, "give it")
        return self.loaded


def get_format(name: str) -> Format:
    """The format of that name, or UserError with the nearest."""
    if name not in FORMATS:
        raise UserError(f"--format={name}", "unknown", nearest(name, FORMATS))
    return FORMATS[name]


def check_consumer(name: str) -> None:
    """UserError, with the extra that helps, unless the consumer of a format is installed."""
    form = get_format(name)
    for distribution in form.consumer:
        module = MODULES.get(distribution, distribution)
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise UserError(
                f"--format={name}",
                f"is checked by {distribution}, which is not installed",
                f"pip install 'prompt-jax[{form.extra}]', or give --unverified",
            )


def check_expressible(name: str, prompt: "Prompt") -> None:
    """UserError, naming what it is, for a prompt that the format cannot hold."""
    lost = get_format(name).load().refusal(prompt)
    if lost is not None:
        raise UserError(
            f"prompt {prompt.path!r}",
            f"has {lost}, which --format={name} cannot express",
            f"take --format={_able(prompt)}",
        )


def check_targets(names: Sequence[str], prompt: "Prompt", where: object) -> None:
    """What a recipe names as the formats of its prompt, before it is trained.

    `where`: of the recipe. `prompt` is what is known of it by then; its values do not count.

    Raises:
      UserError: a format that is not known, has no consumer here, or cannot hold such a prompt.
    """
    for name in names:
        if name not in FORMATS:
            raise UserError(where, f"{name!r} is not a format", nearest(name, FORMATS))
        lost = get_format(name).load().refusal(prompt)
        if lost is not None:
            remedy = (
                f"take {_able(prompt)}, or train a prompt without, as runs/quickstart_export.gin"
            )
            raise UserError(where, f"the prompt has {lost}, which {name!r} cannot express", remedy)
        try:
            check_consumer(name)
        except UserError as error:
            raise UserError(where, f"{name!r} {error.problem}", error.remedy) from None


def _able(prompt: "Prompt") -> str:
    """The formats that can hold a prompt, in words."""
    able = [name for name, form in FORMATS.items() if form.load().refusal(prompt) is None]
    return " or ".join(f"{n} (--merge)" if FORMATS[n].merges else n for n in able)


def whole_model(path: str) -> UserError:
    """That no prompt can be read from an export that is a program."""
    problem = "is a whole model, and no prompt can be taken out of it"
    return UserError(f"--from={path}", problem, "give the prompt's own folder")


def checked_rows(array: np.ndarray, what: str, where: str) -> np.ndarray:
    """`array` as float32, [P, D] or of its name's rank; UserError if no prompt or not finite."""
    floats = array.dtype.kind in "fV"  # V: bfloat16
    if not floats or array.ndim != rank_of(what) or 0 in array.shape:
        kind = f"{array.dtype} {list(array.shape)}"
        raise UserError(where, f"{what} holds {kind}", "a prompt is floats [rows, model width]")
    rows = np.ascontiguousarray(array.astype(np.float32))
    if not np.isfinite(rows).all():
        raise UserError(where, f"{what} holds NaN or infinity", "take an earlier one")
    return rows


def beyond_rows(prompt: "Prompt") -> str | None:
    """What a prompt has beside encoder rows that stand before the text and see everything."""
    layout, seen = prompt.layout, prompt.visibility
    lost = [f"{name} inside the layers" for name in sorted(prompt.arrays) if "/" in name]
    if "encoder_offset" in prompt.arrays:
        lost.append("offsets of the text's embeddings")
    if layout.factors:
        lost.append("rows that depend on the task (DIR?task=NAME is one of them)")
    if layout.decoder:
        lost.append(f"{layout.decoder} decoder rows")
    if layout.encoder and layout.placement != "prefix":
        lost.append(f"placement {layout.placement!r}")
    if not seen.input:
        lost.append("a visibility that hides the input from its rows")
    if seen.prompt != "all":
        lost.append(f"the visibility {seen.prompt!r} among its rows")
    if not layout.encoder:
        lost.append("no encoder rows")
    return next(iter(lost), None)
