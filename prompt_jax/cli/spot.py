"""The verbs of `spot`; nothing heavy is imported before one of them runs."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from prompt_jax.cli.options import (
    DataDir,
    Debug,
    DryRun,
    GinFiles,
    GinSearchPaths,
    Json,
    MethodsModules,
    ModelDir,
    TasksModules,
    command_line,
    import_methods,
    import_tasks,
    use_data_dir,
)
from prompt_jax.cli.show import print_facts, print_json, print_plans, print_table
from prompt_jax.errors import UserError

LibraryFolder = Annotated[
    str, typer.Option("--library", metavar="DIR", help="Folder of the source prompts.")
]
By = Annotated[
    str,
    typer.Option(
        "--by", metavar="KIND", help="pairs: mean of cosines; means: cosine of mean rows."
    ),
]
Picture = Annotated[
    str | None, typer.Option("--picture", metavar="FILE.png", help="Also draw it (matplotlib).")
]
EarlyStep = Annotated[
    int | None,
    typer.Option(
        "--early_step", metavar="N", min=1, help="Step whose checkpoint is the embedding."
    ),
]

Threshold = Annotated[
    float,
    typer.Option("--threshold", metavar="POINTS", help="Least mean gain between tasks of a group."),
]

app = typer.Typer(rich_markup_mode=None, help="Transfers prompts between tasks (SPoT).")


@app.command("embed")
def embed(
    ctx: typer.Context,
    library: LibraryFolder,
    model_dir: ModelDir,
    gin_file: Annotated[
        list[str] | None,
        typer.Option(
            "--gin_file",
            metavar="FILE",
            help="Recipe to train first; without it, the run must be finished.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of the entry; by default its task."),
    ] = None,
    early_step: EarlyStep = None,
    gin_search_paths: GinSearchPaths = "",
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Adds a source to the library.

    The entry has its best prompt and, as its embedding, an early one.

    \b
    Example:
      prompt-jax spot embed --gin_file=runs/spot_nano.gin --gin.TASK=empath_topic \\
        --model_dir=/tmp/empath_topic --library=/tmp/library
    """
    use_data_dir(data_dir)
    if ctx.obj and not gin_file:
        raise UserError(f"--gin.{ctx.obj[0]}", "bindings go with a --gin_file", "give one, or none")
    import_methods(methods_module)
    if dry_run:
        if not gin_file:
            raise UserError("--dry_run", "there is nothing to train", "give a --gin_file")
        from prompt_jax.doctor.plan import Also, plan_of_run
        from prompt_jax.inspect import observers

        cfg = _loader(ctx, gin_file, gin_search_paths)([])
        entry = f"{library}/{name or cfg.root.data.task}/"
        plan = plan_of_run(cfg.root, model_dir, Also(observers.files()))
        print_plans([plan | {"entry": entry}], cfg.operative, json)
        return
    if gin_file:
        cfg = _loader(ctx, gin_file, gin_search_paths)([])
        import_tasks(tasks_module)
        from prompt_jax.inspect import observers
        from prompt_jax.run.train import train

        flags = {"gin_file": gin_file, "library": library, "model_dir": model_dir, "name": name}
        flags |= {"gin_search_paths": gin_search_paths, "tasks_module": tasks_module}
        flags |= {"methods_module": methods_module, "data_dir": data_dir}
        followers = observers.usual(command_line("spot embed", flags, ctx.obj))
        train(cfg.root, model_dir, operative=cfg.operative, observers=followers, show=True)
    from prompt_jax.prompt.library import Library
    from prompt_jax.transfer.embed import take

    entry = take(Library(library), model_dir, name, early_step)
    if json:
        print_json({"folder": entry.folder, **entry.facts})
    else:
        print_facts(entry.folder, entry.facts)


@app.command("rank")
def rank(
    ctx: typer.Context,
    library: LibraryFolder,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="NAME", help="Entry to compare with; without it, every two entries."
        ),
    ] = None,
    by: By = "pairs",
    picture: Picture = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Shows how similar the tasks of a library are.

    Their embeddings are compared.

    \b
    Example:
      prompt-jax spot rank --library=/tmp/library --target=empath_topic --picture=/tmp/map.png
    """
    if ctx.obj:
        raise UserError(f"--gin.{ctx.obj[0]}", "spot rank takes no bindings", "remove it")
    kind = _kind(by)
    from prompt_jax.inspect import pictures
    from prompt_jax.transfer.report import similarities

    pictures.check(picture)

    report = similarities(library, target, kind)
    if picture is not None:
        names = report["entries"]
        title = f"Similarity of tasks by their prompts, {by}"
        pictures.heat_map(report["matrix"], names, names, title, picture, scale="cosine")
    if json:
        print_json({**report, "matrix": report["matrix"].tolist()})
        return
    for row in report["left_out"]:
        print(f"{row['entry']} is left out: {row['why']}")
    print_table(library if target is None else f"{target}, {library}", report["ranking"])


@app.command("transfer")
def transfer(
    ctx: typer.Context,
    gin_file: GinFiles,
    library: LibraryFolder,
    model_dir: ModelDir,
    strategy: Annotated[
        str, typer.Option("--strategy", metavar="S,S", help="best, average, mixture, or several.")
    ] = "best",
    k: Annotated[
        int,
        typer.Option("--k", metavar="N", min=1, help="How many of the nearest sources to take."),
    ] = 3,
    by: By = "pairs",
    early_step: EarlyStep = None,
    size_cap: Annotated[
        int,
        typer.Option(
            "--size_cap", metavar="N", min=1, help="Most examples of a task in a mixture."
        ),
    ] = 2**19,
    picture: Picture = None,
    gin_search_paths: GinSearchPaths = "",
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Trains a target from its nearest sources, and from its own init. Run it again to continue.

    \b
    Example:
      prompt-jax spot transfer --gin_file=runs/spot_nano.gin --gin.TASK=vader_polarity --k=2 \\
        --strategy=best,average --library=/tmp/library --model_dir=/tmp/transfer
    """
    kind = _kind(by)
    strategies = _strategies(strategy)
    from prompt_jax.inspect import observers, pictures

    pictures.check(picture)
    use_data_dir(data_dir)
    import_methods(methods_module)
    load = _loader(ctx, gin_file, gin_search_paths)
    cfg = load([])  # a wrong recipe is said before the tasks are read
    from prompt_jax.prompt.library import Library

    if dry_run:
        from prompt_jax.doctor.plan import Also, plan_of_transfer

        also = Also(observers.files())
        plans = plan_of_transfer(cfg.root, model_dir, Library(library), strategies, k, also)
        print_plans(plans, cfg.operative, json)
        return
    import_tasks(tasks_module)
    from prompt_jax.transfer.targets import Transfer

    where = (Library(library), model_dir)
    options = {"observers": observers.usual, "show": True}
    planned = Transfer(load, *where, strategies, k, kind, early_step, size_cap, **options)
    report = planned()
    if picture is not None:
        _draw_gains(report, picture)
    if json:
        print_json(report)
        return
    for row in report["left_out"]:
        print(f"{row['entry']} is left out: {row['why']}")
    print_table(f"sources by similarity to {report['target']}", report["ranking"])
    left = ("model_dir", "sources")
    runs = [{key: row[key] for key in row if key not in left} for row in report["runs"]]
    print_table("{target}, chosen on {chosen_by[task]} {chosen_by[split]}".format(**report), runs)
    best = next(row for row in report["runs"] if row["best"])
    print(f"best: {best['model_dir']}/prompt/best")


@app.command("groups")
def groups(
    ctx: typer.Context,
    transfers: Annotated[
        str,
        typer.Option(
            "--transfers",
            metavar="DIR,DIR",
            help="Folders of `spot transfer`, one for each target.",
        ),
    ],
    threshold: Threshold = 0.0,
    picture: Picture = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Finds targets to train together (MVLPT).

    They are those that gain from each other's prompts.

    \b
    Example:
      prompt-jax spot groups --transfers=/tmp/transfer,/tmp/transfer_of_topics
    """
    if ctx.obj:
        raise UserError(f"--gin.{ctx.obj[0]}", "spot groups takes no bindings", "remove it")
    from prompt_jax.inspect import pictures
    from prompt_jax.transfer.groups import report_of

    pictures.check(picture)
    _print_groups(report_of([f for f in transfers.split(",") if f], threshold), picture, json)


@app.command("study")
def study(
    ctx: typer.Context,
    gin_file: GinFiles,
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="TASK,TASK", help="Each is a source for the others.")
    ],
    model_dir: ModelDir,
    threshold: Threshold = 0.0,
    picture: Picture = None,
    gin_search_paths: GinSearchPaths = "",
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Trains every two of some tasks, one from the other's prompt. Run it again to continue.

    The matrix of gains says which tasks to train together (MVLPT).

    \b
    Example:
      prompt-jax spot study --gin_file=runs/spot_nano.gin --model_dir=/tmp/study \\
        --tasks=vader_polarity,empath_topic,cldr_language
    """
    from prompt_jax.inspect import observers, pictures

    pictures.check(picture)
    use_data_dir(data_dir)
    import_methods(methods_module)
    load = _loader(ctx, gin_file, gin_search_paths)
    load([])  # a wrong recipe is said before the tasks are read
    import_tasks(tasks_module)
    from prompt_jax.transfer.study import study

    named = [task for task in tasks.split(",") if task]
    report = study(load, named, model_dir, threshold, observers.usual, show=True)
    _print_groups(report, picture, json)


def _loader(ctx: typer.Context, gin_file: list[str], gin_search_paths: str) -> Any:
    from prompt_jax.recipe import config

    folders = [folder for folder in gin_search_paths.split(",") if folder]

    def load(more: Sequence[str]) -> config.Config:
        return config.load("Train", gin_file, [*(ctx.obj or []), *more], folders)

    return load


def _kind(by: str) -> Any:
    """A `spot.Kind`."""
    if by not in ("pairs", "means"):
        raise UserError(f"--by={by}", remedy="give one of pairs, means")
    return by


def _strategies(text: str) -> list[Any]:
    """Some `spot_transfer.Strategy`."""
    known = ("best", "average", "mixture")
    parts = text.split(",")
    if unknown := [part for part in parts if part not in known]:
        raise UserError(f"--strategy={text}", f"no {unknown[0]!r}", f"there are {', '.join(known)}")
    return list(dict.fromkeys(parts))


def _draw_gains(report: dict[str, Any], picture: str) -> None:
    from prompt_jax.inspect import pictures

    runs = report["runs"][1:]
    title = f"{report['target']}: gain over its own init"
    label = f"points of {report['chosen_by']['metric']}"
    names = [f"{row['strategy']}: {row['init']}" for row in runs]
    pictures.bars([row["gain"] for row in runs], names, title, label, picture)


def _print_groups(report: dict[str, Any], picture: str | None, json: bool) -> None:
    if picture is not None:
        _draw_groups(report, picture)
    if json:
        print_json(report)
        return
    names = report["tasks"]
    rows = [
        {"source": source, **dict(zip(names, gains, strict=True))}
        for source, gains in zip(names, report["gains"], strict=True)
    ]
    print_table("points that a target gains from a source's prompt", rows)
    print_table(f"groups, gains above {report['threshold']:g} points", report["groups"])


def _draw_groups(report: dict[str, Any], picture: str) -> None:
    import numpy as np

    from prompt_jax.inspect import pictures

    names, gains = report["tasks"], np.array(report["gains"], np.float64)
    title = "Gain of a task from another's prompt"
    pictures.heat_map(
        gains,
        names,
        names,
        title,
        picture,
        row_name="source",
        column_name="target",
        scale="points",
        centred=True,
    )
