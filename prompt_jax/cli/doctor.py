"""The verb `doctor`; nothing heavy is imported before it runs."""

import dataclasses
import sys
from typing import TYPE_CHECKING

import typer

from prompt_jax.cli.options import (
    DataDir,
    Debug,
    GinFiles,
    GinSearchPaths,
    Json,
    MethodsModules,
    ModelDir,
    TasksModules,
    folders,
    import_methods,
    import_tasks,
    use_data_dir,
)
from prompt_jax.cli.show import print_json, print_table
from prompt_jax.errors import UserError

if TYPE_CHECKING:
    from prompt_jax.doctor.examine import Line


def doctor(
    ctx: typer.Context,
    gin_file: GinFiles,
    model_dir: ModelDir,
    gin_search_paths: GinSearchPaths = "",
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Says whether a run would work, and what to change. Exit code 2 if it would not.

    \b
    Example:
      prompt-jax doctor --gin_file=runs/quickstart.gin --model_dir=/tmp/quickstart
    """
    from prompt_jax.doctor.examine import examine, examine_stages, recipe_line
    from prompt_jax.recipe import config
    from prompt_jax.run.stages import Stages, check_shapes

    use_data_dir(data_dir)
    try:
        import_methods(methods_module)
        cfg = config.load(("Stages", "Train"), gin_file, ctx.obj, folders(gin_search_paths))
        import_tasks(tasks_module)
        if isinstance(cfg.root, Stages):
            check_shapes(cfg.root)
    except UserError as error:
        lines = [recipe_line(gin_file, error)]
    else:
        root = cfg.root
        staged = isinstance(root, Stages)
        examined = examine_stages(root, model_dir) if staged else examine(root, model_dir)
        lines = [recipe_line(cfg.files), *examined]
    failed = any(line.status == "fail" for line in lines)
    if json:
        print_json({"ok": not failed, "lines": [dataclasses.asdict(line) for line in lines]})
    else:
        show(lines)
    if failed:
        raise typer.Exit(2)


def show(lines: "list[Line]") -> None:
    """A table on a terminal, else one plain line per check."""
    if sys.stdout.isatty():
        print_table("doctor", [dataclasses.asdict(line) for line in lines])
        return
    for line in lines:
        fix = f"  ->  {line.fix}" if line.fix else ""
        print(f"{line.status:4}  {line.check:12}  {line.value}{fix}")
