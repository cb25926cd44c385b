"""The program `prompt-jax`: flags become a config, and the config goes to one function.

`--help` has to be quick, so that nothing heavy is imported before a verb runs.
"""

import locale
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from prompt_jax import hosts, progress
from prompt_jax.cli import compiled
from prompt_jax.cli.bench import bench
from prompt_jax.cli.convert import convert
from prompt_jax.cli.doctor import doctor
from prompt_jax.cli.evaluate import evaluate, infer
from prompt_jax.cli.export import export, import_
from prompt_jax.cli.farm import MemberOptions, plans_of, train_members
from prompt_jax.cli.fit import fit
from prompt_jax.cli.gallery import gallery_app
from prompt_jax.cli.inspect import inspect
from prompt_jax.cli.migrate import migrate
from prompt_jax.cli.options import (
    Coordinator,
    DataDir,
    Debug,
    DryRun,
    GinFiles,
    GinSearchPaths,
    Json,
    MethodsModules,
    ModelDir,
    Process,
    Processes,
    StartTimeout,
    StopSignals,
    TasksModules,
    Track,
    command_line,
    folders,
    import_methods,
    import_tasks,
    use_data_dir,
    use_stop_signals,
    use_trackers,
)
from prompt_jax.cli.recycle import recycle
from prompt_jax.cli.rehearse import rehearse
from prompt_jax.cli.report import report
from prompt_jax.cli.serve import serve
from prompt_jax.cli.show import print_json, print_plans
from prompt_jax.cli.spot import app as spot_app
from prompt_jax.cli.tasks import tasks_app
from prompt_jax.cli.untrained import untrained
from prompt_jax.cli.watch import watch
from prompt_jax.errors import Preempted, RunError, UserError
from prompt_jax.hosts import chipless

# Their output is the last thing that they do, so that a reader who has seen enough may go.
SHOWING_VERBS = ("tasks", "gallery", "fit", "doctor", "--help", "-h")
# They take --gin_file and --gin.NAME=VALUE.
RECIPE_VERBS = ("train", "pretrain", "doctor", "rehearse", "fit", "spot", "migrate")
INTERRUPTED = 130  # what a shell reports after Ctrl-C

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: that of the process) and returns the exit code.

    0 done, 1 failed while running, 2 the user's mistake, 75 preempted, 130 interrupted. An error
    is one line on standard error; with --debug it is raised instead, but for errors of usage.
    """
    if argv is None:
        _use_utf8()
        compiled.use_cache()
    arguments = list(sys.argv[1:] if argv is None else argv)
    chipless.be_quiet()
    try:
        try:
            with progress.shown(lambda line: print(line, file=sys.stderr, flush=True)):
                return run_command(arguments)
        except (BrokenPipeError, SystemExit) as error:
            if not _reader_has_gone(error, arguments):
                raise
            return 0
        except typer.Abort as abort:  # typer's name for Ctrl-C, and for the end of a file
            raise abort.__cause__ if isinstance(abort.__cause__, EOFError) else abort from None
    except (KeyboardInterrupt, typer.Abort):
        return hosts.leave(_complain("interrupted", INTERRUPTED))
    except Exception as error:
        if "--debug" in arguments and not isinstance(error, typer.TyperException):
            raise
        return hosts.leave(_complain(*_explain(error)))


def _use_utf8() -> None:
    """Starts this process again with texts in UTF-8, where the locale cannot hold them (C, Latin).

    Python decides that once, at its start.
    """
    if locale.getencoding().lower().replace("-", "") != "utf8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _reader_has_gone(error: BaseException, arguments: list[str]) -> bool:
    """Whether standard output is closed at its other end (`| head`) and nothing else was to do.

    Typer turns the error of the pipe into SystemExit.
    """
    pipe = isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)
    if not pipe or not arguments or arguments[0] not in SHOWING_VERBS:
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its exit
    return True


def run_command(arguments: list[str]) -> int:
    """Runs a verb with its flags and bindings; what it raises is `main`'s to explain."""
    rest, bindings = split_bindings(arguments)
    rest = [argument for argument in rest if argument != "--debug"]  # main has seen it
    command = typer.main.get_command(app)
    code = command.main(
        rest or ["--help"], prog_name="prompt-jax", standalone_mode=False, obj=bindings
    )
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    sys.stdout.flush()  # so that a closed pipe is met here
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
                raise UserError(argument, "has no value", f"write {argument}=VALUE")
            binding = f"{binding}={value}"
        bindings.append(binding)
    return rest, bindings


def _print_version(wanted: bool) -> None:
    if wanted:
        from prompt_jax.version import __version__

        print(f"prompt-jax {__version__}")
        raise typer.Exit


@app.callback()
def program(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Tunes prompts for frozen T5 and mT5 models.

    \b
    Example:
      prompt-jax train --gin_file=runs/quickstart.gin --model_dir=/tmp/quickstart
    """
    if ctx.obj and ctx.invoked_subcommand not in RECIPE_VERBS:
        verbs = f"{', '.join(RECIPE_VERBS[:-1])} and {RECIPE_VERBS[-1]}"
        raise UserError(f"--gin.{ctx.obj[0]}", f"only {verbs} take bindings", "remove it")


def train(
    ctx: typer.Context,
    gin_file: GinFiles,
    model_dir: ModelDir,
    gin_search_paths: GinSearchPaths = "",
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    profile: Annotated[bool, typer.Option("--profile", help="Trace a few steps (xprof).")] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds", metavar="N,N,...", help="One run for each seed, in MODEL_DIR/seed_N."
        ),
    ] = None,
    batch_digests: Annotated[
        bool,
        typer.Option(
            "--batch_digests", help="Record the digest of every row that was read, in batches/."
        ),
    ] = False,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    start_timeout: StartTimeout = hosts.START_TIMEOUT,
    stop_signal: StopSignals = None,
    track: Track = None,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Tunes a prompt, evaluates and checkpoints it. Run it again with the same folder to resume.

    A recipe of stages (runs/promot_nano.gin) is run stage by stage, in MODEL_DIR/stage_1 and so on.

    \b
    Example:
      prompt-jax train --gin_file=runs/quickstart.gin --model_dir=/tmp/quickstart \\
        --gin.TRAIN_STEPS=200
    """
    from prompt_jax.recipe import config

    def load(extra: Sequence[str]) -> config.Config:
        bindings = [*(ctx.obj or []), *extra]
        return config.load(("Stages", "Train"), gin_file, bindings, folders(gin_search_paths))

    def run(cfg: config.Config, folder: str) -> dict[str, Any]:
        from prompt_jax.inspect import observers
        from prompt_jax.run.stages import run_recipe

        options = {"profile": profile, "batch_digests": batch_digests, "show": True}
        options |= {"observers": observers.usual(command, trackers)}
        return run_recipe(cfg.root, folder, seeds=seeds, operative=cfg.operative, **options)

    if dry_run:
        import_methods(methods_module)
        cfg = load([])
        import_tasks(tasks_module)
        plans = plans_of(cfg.root, seeds, load, model_dir, track, profile, batch_digests)
        print_plans(plans, cfg.operative, json)
        return
    flags = {"gin_file": gin_file, "gin_search_paths": gin_search_paths}
    flags |= {"model_dir": model_dir, "tasks_module": tasks_module, "seeds": seeds}
    flags |= {"methods_module": methods_module, "data_dir": data_dir, "track": track}
    command = command_line("train", flags, ctx.obj)
    place = hosts.find(coordinator, processes, process)
    if place is not None:
        hosts.watched()
    use_data_dir(data_dir)
    trackers = use_trackers(track)
    use_stop_signals(stop_signal)
    import_methods(methods_module)
    cfg = load([])
    import_tasks(tasks_module)
    with hosts.joined(place, start_timeout, about=cfg.operative):
        options = MemberOptions(model_dir, batch_digests, json, trackers)
        if train_members(cfg.root, seeds, load, run, options):
            return
        last = run(cfg, model_dir)
        if json and hosts.writes():
            print_json(last)


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
    track: Track = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Trains a small backbone from scratch on text.

    \b
    Example:
      prompt-jax pretrain --gin_file=runs/pretrain_nano.gin --model_dir=/tmp/nano --gin.CORPUS=DIR
    """
    from prompt_jax.recipe import config

    place = hosts.find(coordinator, processes, process)
    if place is not None:
        hosts.watched()
    use_data_dir(data_dir)
    trackers = use_trackers(track)
    cfg = config.load("Pretrain", gin_file, ctx.obj, folders(gin_search_paths))
    from prompt_jax.inspect import observers
    from prompt_jax.run.pretrain import pretrain

    with hosts.joined(place, start_timeout, about=cfg.operative):
        flags = {"gin_file": gin_file, "gin_search_paths": gin_search_paths}
        flags |= {"model_dir": model_dir, "data_dir": data_dir, "track": track}
        followers = observers.usual(command_line("pretrain", flags, ctx.obj), trackers)
        options = {"operative": cfg.operative, "observers": followers, "show": True}
        last = pretrain(cfg.root, model_dir, **options)
        if json and hosts.writes():
            print_json(last)


# In the order of --help: from a first run to what few need.
app.command("train")(train)
app.command("eval")(evaluate)
app.command("infer")(infer)
app.command("report")(report)
app.command("watch")(watch)
app.command("inspect")(inspect)
app.command("export")(export)
app.command("import")(import_)
app.command("serve")(serve)
app.command("doctor")(doctor)
app.command("fit")(fit)
app.command("bench")(bench)
app.command("rehearse")(rehearse)
app.command("migrate")(migrate)
app.command("convert")(convert)
app.command("recycle")(recycle)
app.command("untrained")(untrained)
app.command("pretrain")(pretrain)
app.add_typer(tasks_app, name="tasks")
app.add_typer(gallery_app, name="gallery")
app.add_typer(spot_app, name="spot")


if __name__ == "__main__":
    sys.exit(main())
