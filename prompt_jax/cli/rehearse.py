"""The verb `rehearse`."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from prompt_jax.cli.options import (
    DataDir,
    Debug,
    GinFiles,
    GinSearchPaths,
    Json,
    MethodsModules,
    TasksModules,
    import_methods,
    import_tasks,
    use_data_dir,
)
from prompt_jax.cli.show import print_facts, print_json


def rehearse(
    ctx: typer.Context,
    gin_file: GinFiles,
    model_dir: Annotated[
        str | None,
        typer.Option(
            "--model_dir", metavar="DIR", help="Where the runs go; without it a temporary folder."
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=2, help="Local processes.")
    ] = 4,
    devices: Annotated[
        int, typer.Option("--devices", metavar="M", min=1, help="Virtual devices of each process.")
    ] = 2,
    kill: Annotated[
        list[str] | None,
        typer.Option(
            "--kill",
            metavar="I@STEP|random",
            help="Also run with process I killed at a step. Repeatable: one kill after the other.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of random kills.")] = 0,
    bound: Annotated[
        float, typer.Option("--bound", help="Largest difference between prompts that still passes.")
    ] = 1e-4,
    gin_search_paths: GinSearchPaths = "",
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Runs a recipe as N local processes and as one, and compares.

    Some are killed on request. Each of them trains as it would on a host of its own. The steps of
    a recipe of stages are counted through all stages. Exit code 1 if batches or prompts differ.

    \b
    Example:
      prompt-jax rehearse --processes=4 --devices=2 --gin_file=runs/quickstart.gin \\
        --gin.TRAIN_STEPS=20 --kill=2@10
    """
    from prompt_jax.hosts.rehearse import Rehearsal
    from prompt_jax.hosts.rehearse import rehearse as run
    from prompt_jax.recipe import config
    from prompt_jax.run.stages import parts

    use_data_dir(data_dir)
    bindings = ctx.obj or []
    folders = [folder for folder in gin_search_paths.split(",") if folder]
    import_methods(methods_module)
    cfg = config.load(("Stages", "Train"), gin_file, bindings, folders)
    import_tasks(tasks_module)
    arguments = [f"--gin_file={path}" for path in gin_file]
    arguments += [f"--gin.{binding}" for binding in bindings]
    arguments += [f"--gin_search_paths={gin_search_paths}"] if gin_search_paths else []
    arguments += [f"--tasks_module={module}" for module in tasks_module or []]
    arguments += [f"--methods_module={module}" for module in methods_module or []]
    arguments += [f"--data_dir={data_dir}"] if data_dir else []
    folder = Path(model_dir or tempfile.mkdtemp(prefix="rehearsal_")).resolve()
    report = run(
        Rehearsal(
            arguments,
            folder,
            processes,
            devices,
            parts(cfg.root),
            tuple(kill or ()),
            seed,
            bound,
            lambda text: print(text, file=sys.stderr, flush=True),
        )
    )
    if json:
        print_json(report)
    else:
        kills = report.pop("kills", [])
        print_facts("rehearsal", {**report, "kills": len(kills)})
    if not report["ok"]:
        raise typer.Exit(1)
