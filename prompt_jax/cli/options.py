"""Options that several verbs of the command line share, and what two of them do."""

import os
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from prompt_jax.errors import UserError

GinFiles = Annotated[
    list[str],
    typer.Option(
        "--gin_file",
        metavar="FILE",
        help="Recipe: a path, or NAME.gin among the installed. Repeatable.",
    ),
]
GinSearchPaths = Annotated[
    str,
    typer.Option("--gin_search_paths", metavar="DIRS", help="Folders to look for recipes in: a,b."),
]


def _named_folder(model_dir: str) -> str:
    """Refuses an empty name, such as an unset variable of the shell gives."""
    if not model_dir.strip():
        raise UserError(f"--model_dir={model_dir}", "is empty", "give the folder of the run")
    return model_dir


ModelDir = Annotated[
    str,
    typer.Option(
        "--model_dir",
        metavar="DIR",
        help="Folder of the run; an unfinished run in it is resumed.",
        callback=_named_folder,
    ),
]
TasksModules = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks_module", metavar="MODULE", help="Your tasks: dotted name or FILE.py. Repeatable."
    ),
]
MethodsModules = Annotated[
    list[str] | None,
    typer.Option(
        "--methods_module",
        metavar="MODULE",
        help="Your classes for recipes: dotted name or FILE.py. Repeatable.",
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track", metavar="TRACKER", help="Log to wandb, mlflow or trackio as well. Repeatable."
    ),
]
DataDir = Annotated[
    str | None, typer.Option("--data_dir", metavar="DIR", help="Folder of the data sets.")
]
Backbone = Annotated[
    str,
    typer.Option("--backbone", metavar="NAME", help="nano, hf:NAME_OR_DIR, t5x:DIR, orbax:DIR."),
]
MaybeBackbone = Annotated[
    str | None,
    typer.Option("--backbone", metavar="NAME", help="Adds its tokens: nano, hf:NAME_OR_DIR, ..."),
]
InputLength = Annotated[
    int | None, typer.Option("--input_length", metavar="N", min=1, help="Tokens of input text.")
]
TargetLength = Annotated[
    int | None, typer.Option("--target_length", metavar="N", min=1, help="Tokens of target text.")
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        "--coordinator",
        metavar="HOST:PORT",
        envvar="PROMPT_JAX_COORDINATOR",
        help="Address where process 0 of several listens.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        min=1,
        envvar="PROMPT_JAX_PROCESSES",
        help="How many processes share the run.",
    ),
]
Process = Annotated[
    int | None,
    typer.Option(
        "--process",
        metavar="I",
        min=0,
        envvar="PROMPT_JAX_PROCESS",
        help="Which of them this is, from 0.",
    ),
]
StartTimeout = Annotated[
    int,
    typer.Option(
        "--start_timeout",
        metavar="SECONDS",
        min=1,
        envvar="PROMPT_JAX_START_TIMEOUT",
        help="How long a start waits for all processes.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON on standard output.")]
DryRun = Annotated[
    bool, typer.Option("--dry_run", help="Say what would be done and written, and do nothing.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


StopSignals = Annotated[
    list[str] | None,
    typer.Option(
        "--stop_signal",
        metavar="NAME",
        help="Signal that also makes it save and stop: USR1 or USR2. Repeatable.",
    ),
]


def use_stop_signals(names: list[str] | None) -> None:
    """Lets what a scheduler sends before the end (`sbatch --signal=B:USR1@60`) act as SIGTERM."""
    numbers = {"USR1": signal.SIGUSR1, "USR2": signal.SIGUSR2}
    for name in names or []:
        if name not in numbers:
            raise UserError(f"--stop_signal={name}", remedy="give USR1 or USR2")
        signal.signal(numbers[name], lambda *_: signal.raise_signal(signal.SIGTERM))


def command_line(
    verb: str, flags: Mapping[str, str | list[str] | None], bindings: list[str] | None
) -> str:
    """The command that was given, as a shell reads it.

    >>> command_line("train", {"gin_file": ["a b.gin"], "seeds": None}, ["SEED=1"])
    "prompt-jax train '--gin_file=a b.gin' --gin.SEED=1"
    """
    parts = ["prompt-jax", verb]
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        parts += [f"--{name}={one}" for one in values if one]
    return shlex.join([*parts, *(f"--gin.{binding}" for binding in bindings or [])])


def use_trackers(names: list[str] | None) -> list[str]:
    """The trackers that were named, once they are known to be there."""
    if names:
        from prompt_jax.inspect import trackers

        trackers.check(names)
    return names or []


def use_data_dir(data_dir: str | None) -> None:
    if data_dir is None:
        return
    if "://" not in data_dir and not Path(data_dir).is_dir():
        raise UserError(f"--data_dir={data_dir}", "no such folder")
    os.environ["PROMPT_JAX_DATA_DIR"] = data_dir


def import_tasks(modules: list[str] | None) -> None:
    if modules:
        from prompt_jax.recipe.user_code import import_tasks_module
        from prompt_jax.tasks.text import import_bundled

        import_bundled()  # so that a module that takes one of their names is told
        for module in modules:
            import_tasks_module(module)


def import_methods(modules: list[str] | None) -> None:
    if modules:
        from prompt_jax.recipe.user_code import import_methods_module

        for module in modules:
            import_methods_module(module)


def folders(search_paths: str) -> list[str]:
    return [folder for folder in search_paths.split(",") if folder]
