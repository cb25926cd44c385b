"""The study of every two tasks behind MVLPT's groups: N controls, N (N - 1) transfers, one matrix.

Shen et al. 2022 (https://arxiv.org/abs/2211.11720): each task is the source of each other one. A
run of the recipe for each task is its control and the source for all others, so that all prompts of
the matrix have the same rows, steps and seed. What is there already is not trained again.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from prompt_jax.errors import UserError
from prompt_jax.prompt.library import Library
from prompt_jax.run.observe import Observer
from prompt_jax.run.train import train
from prompt_jax.transfer.embed import take
from prompt_jax.transfer.groups import report_of
from prompt_jax.transfer.targets import Transfer

Load = Callable[[Sequence[str]], Any]


def study(
    load: Load,
    tasks: Sequence[str],
    model_dir: str,
    threshold: float = 0.0,
    observers: Callable[[], Sequence[Observer]] = tuple,
    show: bool = False,
) -> dict[str, Any]:
    """Trains what is missing in `model_dir/TASK`; what `groups.report_of` says of all.

    `load`: bindings -> the recipe with them; `observers`: makes those of one run.

    Raises:
      UserError: fewer than two tasks, one twice, or a recipe that `spot transfer` does not take.
    """
    names = {re.sub(r"[^A-Za-z0-9.+_-]", "_", task): task for task in tasks}
    if len(names) < max(len(tasks), 2):
        raise UserError(f"--tasks={','.join(tasks)}", remedy="name two tasks or more, each once")
    library = Library(f"{model_dir}/library")
    for name, task in names.items():
        cfg, folder = load([_binding(task)]), f"{model_dir}/{name}/control"
        train(cfg.root, folder, operative=cfg.operative, observers=observers(), show=show)
        take(library, folder, name, None)
    for name, task in names.items():
        of_task = lambda more, task=task: load([_binding(task), *more])  # noqa: E731
        options: dict[str, Any] = {"k": len(names) - 1, "observers": observers, "show": show}
        Transfer(of_task, library, f"{model_dir}/{name}", **options)()
    return report_of([f"{model_dir}/{name}" for name in names], threshold)


def _binding(task: str) -> str:
    return f"TASK={task!r}"
