"""The program `prompt-jax`: flags become a config, and the config goes to one function.

`--help` has to be quick, so that nothing heavy is imported before a verb runs.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from prompt_jax import chipless, doctor_cli, eval_cli, export_cli, fit_cli, hosts, rehearse_cli
from prompt_jax.convert_cli import convert
from prompt_jax.errors import Preempted, RunError, UserError
from prompt_jax.jsonl import ENDINGS
from prompt_jax.options import (
    Coordinator,
    DataDir,
    Debug,
    GinFiles,
    GinSearchPaths,
    InputLength,
    Json,
    MaybeBackbone,
    ModelDir,
    Process,
    Processes,
    StartTimeout,
    TargetLength,
    TasksModules,
    import_tasks,
    use_data_dir,
)
from prompt_jax.recycle_cli import recycle
from prompt_jax.show import print_facts, print_json, print_rows, print_table
from prompt_jax.spot_cli import app as spot_app

# They take --gin_file and --gin.NAME=VALUE.
SHOWN = 10  # so many errors of `tasks check`
RECIPE_VERBS = ("train", "pretrain", "doctor", "rehearse", "fit", "spot")
INTERRUPTED = 130  # what a shell reports after Ctrl-C

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
tasks_app = typer.Typer(
    rich_markup_mode=None, help="The registry of tasks, and checks of them and of files."
)
app.add_typer(tasks_app, name="tasks")
app.add_typer(spot_app, name="spot")
app.command("doctor")(doctor_cli.doctor)
app.command("fit")(fit_cli.fit)
app.command("eval")(eval_cli.evaluate)
app.command("infer")(eval_cli.infer)
app.command("export")(export_cli.export)
app.command("import")(export_cli.import_)
app.command("rehearse")(rehearse_cli.rehearse)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: that of the process) and returns the exit code.

    0 done, 1 failed while running, 2 the user's mistake, 75 preempted, 130 interrupted. An error
    is one line on standard error; with --debug it is raised instead, but for errors of usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    chipless.be_quiet()
    try:
        return _run(arguments)
    except (KeyboardInterrupt, typer.Abort):
        return hosts.leave(_complain("interrupted", INTERRUPTED), "interrupted")
    except Exception as error:
        if not isinstance(error, UserError | typer.TyperException):
            hosts.listen()
        if "--debug" in arguments and not isinstance(error, typer.TyperException):
            raise
        message, code = _explain(error)
        return hosts.leave(_complain(message, code), message)


def _run(arguments: list[str]) -> int:
    rest, bindings = split_bindings(arguments)
    rest = [argument for argument in rest if argument != "--debug"]  # main has seen it
    command = typer.main.get_command(app)
    code = command.main(
        rest or ["--help"], prog_name="prompt-jax", standalone_mode=False, obj=bindings
    )
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code or 0


def _explain(error: Exception) -> tuple[str, int]:
    """One line about an error, and the exit code."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, Preempted):
        return str(error), 75
    if isinstance(error, RunError):
        return str(error), 1
    if isinstance(error, typer.TyperException):
        return f"{error.format_message()} (--help shows an example)", 2
    return f"{type(error).__name__}: {error} (--debug shows the traceback)", 1


def _complain(message: str, code: int) -> int:
    print("prompt-jax: error:", " ".join(message.split()), file=sys.stderr)
    return code


def split_bindings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.NAME=VALUE` and `--gin.NAME VALUE` out of a command line.

    Returns:
      (the other arguments, the bindings as NAME=VALUE), each in its order.

    Raises:
      UserError: a binding without a value.
    """
    rest: list[str] = []
    bindings: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--gin."):
            rest.append(argument)
            continue
        binding = argument.removeprefix("--gin.")
        if "=" not in binding:
            value = next(remaining, "--")
            if value.startswith("--"):
                raise UserError(f"{argument} has no value: write {argument}=VALUE")
            binding = f"{binding}={value}"
        bindings.append(binding)
    return rest, bindings


def _print_version(wanted: bool) -> None:
    if wanted:
        from prompt_jax import __version__

        print(f"prompt-jax {__version__}")
        raise typer.Exit


@app.callback()
def program(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print it.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Tunes prompts for frozen T5 and mT5 models.

    \b
    Example:
      prompt-jax train --gin_file=runs/quickstart.gin --model_dir=/tmp/quickstart
    """
    if ctx.obj and ctx.invoked_subcommand not in RECIPE_VERBS:
        verbs = f"{', '.join(RECIPE_VERBS[:-1])} and {RECIPE_VERBS[-1]}"
        raise UserError(f"--gin.{ctx.obj[0]}: only {verbs} take bindings; remove it")


@app.command()
def train(
    ctx: typer.Context,
    gin_file: GinFiles,
    model_dir: ModelDir,
    gin_search_paths: GinSearchPaths = "",
    tasks_module: TasksModules = None,
    data_dir: DataDir = None,
    profile: Annotated[bool, typer.Option("--profile", help="Trace a few steps (xprof).")] = False,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="N,N,...", help="A run for each, in MODEL_DIR/seed_N."),
    ] = None,
    batch_digests: Annotated[
        bool, typer.Option("--batch_digests", help="Note what was read, row by row, in batches/.")
    ] = False,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    start_timeout: StartTimeout = hosts.START_TIMEOUT,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Tunes a prompt, evaluates and checkpoints it. Run again with the same folder, it resumes.

    A recipe of stages (runs/promot_nano.gin) is run stage by stage, in MODEL_DIR/stage_1 and so on.

    \b
    Example:
      prompt-jax train --gin_file=runs/quickstart.gin --model_dir=/tmp/quickstart \\
        --gin.TRAIN_STEPS=200
    """
    from prompt_jax import config

    def load(extra: list[str]) -> config.Config:
        bindings = [*(ctx.obj or []), *extra]
        return config.load(("Stages", "Train"), gin_file, bindings, _folders(gin_search_paths))

    def run(cfg: config.Config, folder: str) -> dict[str, Any]:
        from prompt_jax.stages import run_recipe

        options = {"profile": profile, "batch_digests": batch_digests, "show": True}
        return run_recipe(cfg.root, folder, seeds=seeds, operative=cfg.operative, **options)

    place = hosts.find(coordinator, processes, process)
    use_data_dir(data_dir)
    cfg = load([])
    import_tasks(tasks_module)
    with hosts.joined(place, start_timeout, about=cfg.operative):
        if seeds is not None:
            _train_seeds(seeds, model_dir, load, run, json)
            return
        last = run(cfg, model_dir)
        if json and hosts.writes():
            print_json(last)


def _train_seeds(seeds: str, model_dir: str, load, run, json: bool) -> None:
    from prompt_jax.seeds import parse_seeds, train_seeds

    def run_one(seed: int, folder: str) -> Any:
        cfg = load([f"SEED={seed}"])
        run(cfg, folder)
        return cfg.root.selection

    summary = train_seeds(parse_seeds(seeds), model_dir, run_one)
    if not hosts.writes():
        return
    if json:
        print_json(summary)
    else:
        rows = [{"metric": name, **facts} for name, facts in summary["metrics"].items()]
        print_table(f"seeds {seeds}", rows)


@app.command()
def pretrain(
    ctx: typer.Context,
    gin_file: GinFiles,
    model_dir: ModelDir,
    gin_search_paths: GinSearchPaths = "",
    data_dir: DataDir = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    start_timeout: StartTimeout = hosts.START_TIMEOUT,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Trains a small backbone from scratch on text.

    \b
    Example:
      prompt-jax pretrain --gin_file=runs/pretrain_nano.gin --model_dir=/tmp/nano --gin.CORPUS=DIR
    """
    from prompt_jax import config

    place = hosts.find(coordinator, processes, process)
    use_data_dir(data_dir)
    cfg = config.load("Pretrain", gin_file, ctx.obj, _folders(gin_search_paths))
    from prompt_jax.pretrain import pretrain

    with hosts.joined(place, start_timeout, about=cfg.operative):
        last = pretrain(cfg.root, model_dir, operative=cfg.operative, show=True)
        if json and hosts.writes():
            print_json(last)


@tasks_app.command("list")
def tasks_list(
    tasks_module: TasksModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The tasks that can be trained on.

    \b
    Example:
      prompt-jax tasks list --json
    """
    use_data_dir(data_dir)
    import_tasks(tasks_module)
    from prompt_jax.tasks_cli import list_tasks

    tasks = list_tasks()
    if json:
        print_json(tasks)
    else:
        print_table("tasks", tasks)


@tasks_app.command("show")
def tasks_show(
    name: Annotated[str, typer.Argument(metavar="TASK", help="SeqIO task or mixture.")],
    split: Annotated[
        str, typer.Option("--split", metavar="SPLIT", help="train, validation, test, ...")
    ] = "train",
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="How many examples.")] = 3,
    backbone: MaybeBackbone = None,
    tasks_module: TasksModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Examples of a task as the model reads them.

    \b
    Example:
      prompt-jax tasks show vader_polarity --split=train --backbone=nano
    """
    use_data_dir(data_dir)
    import_tasks(tasks_module)
    from prompt_jax.tasks_cli import show_task

    examples = show_task(name, split, n, _loaded(backbone))
    if json:
        print_json(examples)
    else:
        print_rows(f"{name}, {split}", examples)


@tasks_app.command("check")
def tasks_check(
    name: Annotated[
        str, typer.Argument(metavar="FILE.jsonl|TASK", help="A file, or a registered task.")
    ],
    backbone: MaybeBackbone = None,
    input_length: InputLength = None,
    target_length: TargetLength = None,
    tasks_module: TasksModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Problems, lengths and labels of a JSONL file or a task. Exit code 2 if it cannot be used.

    \b
    Example:
      prompt-jax tasks check train.jsonl --backbone=nano --input_length=64
    """
    from prompt_jax.task_check import check_jsonl, check_task

    use_data_dir(data_dir)
    import_tasks(tasks_module)
    is_file = name.endswith(ENDINGS)
    check = check_jsonl if is_file else check_task
    report = check(name, _loaded(backbone), input_length, target_length)
    if json:
        print_json(report)
    elif is_file:
        facts = {key: value for key, value in report.items() if key not in ("errors", "named")}
        print_facts(name, facts)
        _print_lines(report["named"])
    else:
        for facts in report["splits"]:
            told = {key: value for key, value in facts.items() if key != "named"}
            print_facts(f"{facts['task']}, {facts['split']}", told)
            _print_lines(facts["named"])
        for pair in report["between"]:
            print("{task} {splits}: {shared_inputs} inputs in both, {first}".format(**pair))
        _print_lines(f"{split}: not at hand" for split in report["absent"])
    for error in report["errors"][:SHOWN]:
        print(error, file=sys.stderr)
    if more := report["errors"][SHOWN:]:
        print(f"and {len(more)} more; --json gives them all", file=sys.stderr)
    if report["errors"]:
        raise typer.Exit(2)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


app.command()(convert)
app.command()(recycle)


def _loaded(backbone: str | None) -> Any:
    if backbone is None:
        return None
    from prompt_jax.backbone import load_backbone

    return load_backbone(backbone)


def _folders(search_paths: str) -> list[str]:
    return [folder for folder in search_paths.split(",") if folder]


if __name__ == "__main__":
    sys.exit(main())
