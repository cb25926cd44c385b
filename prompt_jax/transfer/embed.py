"""A finished run into an entry of a prompt library: its best prompt and an early checkpoint.

What may be taken follows from how Vu et al. 2022 chose (SPoT): the value is the best checkpoint by
the validation of its own source, never of a target, which would make every gain too large.
"""

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from prompt_jax.backbone.load import read_config
from prompt_jax.errors import UserError
from prompt_jax.prompt.artefact import Prompt, load_prompt
from prompt_jax.prompt.library import Entry, Library
from prompt_jax.run.log import read_metrics
from prompt_jax.run.state import Checkpoints, RunCheckpoints, as_saved, named_leaves

SIDES = ("encoder", "decoder")


def take(library: Library, model_dir: str, name: str | None, early_step: int | None) -> Entry:
    """Puts the run in `model_dir` into the library, as `name` or else by its task's name.

    `early_step`: the kept checkpoint that becomes the embedding; None: the earliest one.

    Raises:
      UserError: the run is not finished, has no prompt that its source's validation chose, trained
        no plain prompt, or did not keep that checkpoint.
    """
    value = chosen_prompt(model_dir)
    run = settings_of(model_dir)
    early = early_prompt(run, model_dir, value, early_step)
    manifest, steps = value.manifest, kept_steps(model_dir)
    facts = {
        "name": name or manifest["task"],
        "task": manifest["task"],
        "method": manifest["method"],
        "backbone": manifest["backbone"],
        "tokenizer": manifest["tokenizer"],
        "length": rows_of(value),
        "steps": steps[-1],
        "early_step": early["manifest"]["step"],
        "best_step": manifest["step"],
        "score": manifest["metric"],
        "selection": manifest["selection"],
        "seed": manifest["seed"],
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    return library.add(facts, value, early)


def rows_of(prompt: Prompt) -> dict[str, int]:
    """{side: rows}, of both sides."""
    return {side: len(prompt.arrays[side]) if side in prompt.arrays else 0 for side in SIDES}


def chosen_prompt(model_dir: str) -> Prompt:
    """`prompt/best` of a run, if the validation of its own task chose it."""
    folder = epath.Path(model_dir)
    path = folder / "prompt" / "best"
    if not folder.is_dir():
        raise UserError(
            f"--model_dir={model_dir}",
            "no such folder",
            "give that of a finished run, or a --gin_file, which trains it there",
        )
    if not path.exists():
        raise UserError(
            f"--model_dir={model_dir}",
            "no prompt/best",
            ("train with BEST_METRIC, so that the source's validation chooses a checkpoint"),
        )
    prompt = load_prompt(path)
    manifest = prompt.manifest
    by = manifest.get("selection") or {}
    if by.get("task") != manifest["task"]:
        raise UserError(
            f"--model_dir={model_dir}",
            (
                f"its prompt of {manifest['task']!r} was chosen on {by.get('task')!r}; a "
                "source is chosen by its own validation"
            ),
            "leave Evaluation.task unbound",
        )
    if "encoder" not in prompt.arrays or set(prompt.arrays) - set(SIDES):
        raise UserError(
            f"--model_dir={model_dir}",
            (
                f"{manifest['method']} leaves {', '.join(prompt.arrays)}; SPoT compares and "
                "transfers prompt rows"
            ),
            "train SoftPrompt or PTuning",
        )
    return prompt


def settings_of(model_dir: str) -> Any:
    """The `Train` that a run's config.gin describes."""
    from prompt_jax.recipe import config

    path = epath.Path(model_dir) / "config.gin"
    if not path.exists():
        raise UserError(f"--model_dir={model_dir}", "no config.gin", "give the folder of a run")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "config.gin"
        copy.write_text(path.read_text())
        return config.load("Train", [str(copy)], []).root


def kept_steps(model_dir: str) -> list[int]:
    """The steps of the checkpoints that a run kept."""
    checkpoints = _checkpoints(model_dir)
    try:
        return checkpoints.steps()
    finally:
        checkpoints.close()


def keeps(run: Any, step: int) -> bool:
    """Whether a run by these settings keeps an early checkpoint of that step to its end.

    With `patience` the end is not known, nor then which checkpoints are the latest: True.
    """
    checkpoints = run.checkpoints
    saved = [*range(checkpoints.period, run.steps, checkpoints.period), run.steps]
    for_good = bool(checkpoints.keep_period) and step % checkpoints.keep_period == 0
    latest = run.patience is not None or step in saved[-checkpoints.keep :]
    return step in saved[:-1] and (for_good or latest)


def _checkpoints(model_dir: str) -> RunCheckpoints:
    folder = epath.Path(model_dir)
    if not (folder / "checkpoints").exists():
        raise UserError(f"--model_dir={model_dir}", "no checkpoints", "give the folder of a run")
    return RunCheckpoints(folder, Checkpoints(), {})


def early_prompt(run: Any, model_dir: str, value: Prompt, step: int | None) -> dict[str, Any]:
    """{"arrays", "manifest"}: the prompt as it was at an early step of the finished run `run`.

    `value` is that run's best prompt, whose manifest the early one shares.
    """
    arrays, early = early_arrays(run, model_dir, step)
    scored = [r for r in read_metrics(model_dir) if r["kind"] == "eval" and r["step"] == early]
    metric = value.manifest["selection"]["metric"]
    facts = {"step": early, "metric": {metric: scored[-1][metric]} if scored else None}
    return {"arrays": arrays, "manifest": {**value.manifest, **facts}}


def early_arrays(run: Any, model_dir: str, step: int | None) -> tuple[dict[str, np.ndarray], int]:
    """The prompt's rows at a kept step of a finished run, or at its earliest; and the step."""
    checkpoints = _checkpoints(model_dir)
    try:
        steps = checkpoints.steps()
        _check_finished(run, model_dir, steps)
        early = steps[0] if step is None else step
        _check_early(model_dir, early, steps)
        return folded(run, checkpoints.read_leaves(early)), early
    finally:
        checkpoints.close()


def _check_finished(run: Any, model_dir: str, steps: list[int]) -> None:
    if not steps or (run.patience is None and steps[-1] < run.steps):
        at = steps[-1] if steps else 0
        raise UserError(
            f"--model_dir={model_dir}",
            f"the run stands at step {at} of {run.steps}",
            "finish it by `train` first",
        )


def _check_early(model_dir: str, early: int, steps: list[int]) -> None:
    if early not in steps:
        listed = ", ".join(map(str, steps))
        raise UserError(
            f"--early_step={early}",
            f"{model_dir} kept the checkpoints {listed}",
            "take one of them, or train with Checkpoints.keep_period",
        )
    if early == steps[-1]:
        raise UserError(
            f"--model_dir={model_dir}",
            f"step {early} is its last; the embedding is an early checkpoint",
            "train with Checkpoints.keep_period, a multiple of CHECKPOINT_PERIOD",
        )


def folded(run: Any, leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The prompt rows of a checkpoint's arrays, whatever the method makes them from."""
    module = run.method.shapes(read_config(run.backbone.name))
    graphdef, trainable, rest = nnx.split(module, run.method.trainable, ...)
    names = {f"trainable.prompt.{name}": leaf for name, leaf in named_leaves(trainable).items()}
    values = [leaves[name] for name in as_saved(names, leaves)]
    trainable = jax.tree.unflatten(jax.tree.structure(trainable), values)
    return run.method.fold(nnx.merge(graphdef, trainable, rest))
