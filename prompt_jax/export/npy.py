"""One `.npy`, float32 [P, D], as google-research/prompt-tuning releases prompts and reads them.

Its trainer also left such files without a suffix, in `numpy_checkpoints/checkpoint_STEP/`, under
the dotted name of the parameter; those are read too. Source: Lester et al. 2021, released prompts.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.export.formats import beyond_rows, checked_rows

if TYPE_CHECKING:
    from prompt_jax.export.formats import About
    from prompt_jax.prompt.artefact import Prompt


def refusal(prompt: "Prompt") -> str | None:
    return beyond_rows(prompt)


def write(path: Path, prompt: "Prompt", about: "About") -> None:
    with open(path, "wb") as file:
        np.save(file, prompt.array, allow_pickle=False)


def consume(path: str, request: dict[str, Any]) -> dict[str, np.ndarray]:
    return {"encoder": np.load(path, allow_pickle=False)}


def read(path: str) -> "Prompt":
    from prompt_jax.prompt.artefact import Prompt

    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # of a damaged header numpy raises whatever its parser does
        reason = " ".join(f"{error}".split()) or type(error).__name__
        raise UserError(
            f"{path!r}", f"cannot be read as .npy ({reason})", "give one of floats"
        ) from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path!r}", "an archive of arrays", "give the .npy of the prompt")
    if array.dtype.kind == "V":
        written = f"holds {array.dtype}, which is how numpy writes bfloat16"
        raise UserError(f"{path!r}", written, "save it as float32")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # saved on another machine
    return Prompt({"encoder": checked_rows(array, "the file", path)}, {}, path)
