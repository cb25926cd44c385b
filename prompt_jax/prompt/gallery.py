"""Prompts to look at and to begin from: those that ship with the package, or a folder of any.

The shipped ones lie in `prompt_jax/prompts`, an artefact each with a card beside it (README.md).
"""

import shutil
from pathlib import Path
from typing import Any

from prompt_jax.errors import UserError
from prompt_jax.prompt.artefact import Prompt, load_prompt
from prompt_jax.prompt.files import MANIFEST
from prompt_jax.settings import nearest

CARD = "README.md"


def shelf() -> Path:
    """The folder of the prompts that ship with the package."""
    return Path(__file__).parents[1] / "prompts"


def entries(folder: Path) -> dict[str, Path]:
    """{name: path} of the artefacts and `.npy` files of a folder.

    Raises:
      UserError: there is no such folder, or no prompt in it.
    """
    if not folder.is_dir():
        raise UserError(f"--from={folder}", "no such folder", "give one that holds prompts")
    prompts = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))}
    prompts |= {path.stem: path for path in sorted(folder.glob("*.npy"))}
    if not prompts:
        raise UserError(f"--from={folder}", "holds neither an artefact nor a .npy")
    return prompts


def facts(name: str, path: Path) -> dict[str, Any]:
    """What is known of a prompt: a `.npy` says its rows and nothing else."""
    prompt = load_prompt(path)
    manifest = prompt.manifest
    rows = ", ".join(f"{side} {len(array)}" for side, array in prompt.arrays.items())
    metric = manifest.get("metric") or {}
    return {
        "name": name,
        "task": manifest.get("task"),
        "backbone": (manifest.get("backbone") or {}).get("name"),
        "method": manifest.get("method"),
        "rows": rows,
        "width": _width(prompt),
        "score": ", ".join(f"{key} {value:.1f}" for key, value in metric.items()) or None,
    }


def _width(prompt: Prompt) -> int:
    return next(iter(prompt.arrays.values())).shape[-1]


def get(name: str, folder: Path, output: str) -> dict[str, Any]:
    """Copies a prompt, its card too, to `output`, which is new; what is known of it.

    Raises:
      UserError: no such prompt; `output` is there.
    """
    prompts, target = entries(folder), Path(output)
    if name not in prompts:
        raise UserError(f"gallery get {name}", "no such prompt", nearest(name, prompts))
    if target.exists():
        raise UserError(f"--output={output}", "exists already", "give a new name")
    about = facts(name, prompts[name])
    target.parent.mkdir(parents=True, exist_ok=True)
    copy = shutil.copytree if prompts[name].is_dir() else shutil.copyfile
    copy(prompts[name], target)
    return about
