"""An Orbax checkpoint that holds all of an artefact.

prompt/     a pytree: `encoder` float32 [P, D] and/or `decoder` float32 [P', D]
manifest/   JSON: the artefact's manifest, {} for a prompt that had none
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orbax.checkpoint as ocp

from prompt_jax.errors import UserError
from prompt_jax.export.formats import checked_rows

if TYPE_CHECKING:
    from prompt_jax.export.formats import About
    from prompt_jax.prompt.artefact import Prompt

ITEMS = ("prompt", "manifest")


def refusal(prompt: "Prompt") -> None:
    return None


def write(path: Path, prompt: "Prompt", about: "About") -> None:
    items = ocp.args.Composite(
        prompt=ocp.args.StandardSave(prompt.arrays), manifest=ocp.args.JsonSave(prompt.manifest)
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*ITEMS)) as checkpointer:
        checkpointer.save(path.resolve(), items)


def _restore(path: str) -> Any:
    items = ocp.args.Composite(prompt=ocp.args.StandardRestore(), manifest=ocp.args.JsonRestore())
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*ITEMS)) as checkpointer:
        return checkpointer.restore(Path(path).resolve(), items)


def consume(path: str, request: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(rows) for name, rows in _restore(path)["prompt"].items()}


def read(path: str) -> "Prompt":
    from prompt_jax.prompt.artefact import Prompt

    missing = [name for name in ITEMS if not (Path(path) / name).is_dir()]
    if missing:
        raise UserError(
            f"{path!r}", f"has no item {missing[0]!r}", "give what export --format=orbax wrote"
        )
    try:
        restored = _restore(path)
    except Exception as error:  # Orbax and TensorStore raise whatever they please
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path!r}", f"cannot be read by Orbax ({reason})", "copy it again"
        ) from error
    arrays = {
        name: checked_rows(np.asarray(rows), name, path)
        for name, rows in restored["prompt"].items()
    }
    return Prompt(arrays, restored["manifest"], path)
