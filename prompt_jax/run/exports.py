"""A finished prompt in the formats that its recipe names, each checked by its own reader."""

import json
from collections.abc import Callable

from etils import epath

from prompt_jax import hosts
from prompt_jax.errors import reading
from prompt_jax.export.formats import get_format
from prompt_jax.export.merge import export_merged
from prompt_jax.export.publish import record_of
from prompt_jax.export.run import export_prompt
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.run.settings import Train


def export_finished(run: Train, folder: epath.Path, say: Callable[[str], None]) -> None:
    """Writes `export/FORMAT` of a model_dir for every format of `run.export_to`, from its
    `prompt/best` (else `prompt/last`); what is there of the same prompt stays.

    Raises:
      RunError: a reader makes something else of it than was written.
    """
    if not run.targets:
        return
    found = [folder / "prompt" / name for name in ("best", "last")]
    prompt = str(next(path for path in found if path.exists()))
    if hosts.several():
        say(f"several processes trained it: prompt-jax export --prompt={prompt} --format=...")
        return
    for name in run.targets:
        suffix = get_format(name).suffix
        output = folder / "export" / f"{name}{suffix}"
        if not _is_of(output, suffix, load_prompt(prompt).manifest["sha256"]):
            _remove(output)
            write = export_merged if get_format(name).merges else export_prompt
            write(prompt=prompt, format=name, output=str(output))
        say(f"  {output}")


def _is_of(output: epath.Path, suffix: str, sha256: str) -> bool:
    """Whether an export is there, and of the prompt with that digest."""
    record = record_of(output, suffix)
    if not output.exists() or not record.exists():
        return False
    with reading(record, "remove the export"):
        return json.loads(record.read_text())["manifest"].get("sha256") == sha256


def _remove(output: epath.Path) -> None:
    if output.is_dir():
        output.rmtree()
    elif output.exists():
        output.unlink()
