"""The verbs `tasks list`, `tasks show` and `tasks check`."""

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from prompt_jax.cli.options import (
    DataDir,
    Debug,
    InputLength,
    Json,
    MaybeBackbone,
    TargetLength,
    TasksModules,
    import_tasks,
    use_data_dir,
)
from prompt_jax.cli.show import print_facts, print_json, print_rows, print_table
from prompt_jax.splits import names_rows

SHOWN = 10  # so many errors of `tasks check`


tasks_app = typer.Typer(
    rich_markup_mode=None, help="Lists, shows and checks tasks and files of rows."
)


@tasks_app.command("list")
def tasks_list(
    family: Annotated[
        str | None,
        typer.Option("--family", metavar="NAME", help="List the tasks of one family, one per row."),
    ] = None,
    tasks_module: TasksModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Lists the tasks that can be trained on.

    They are shown by families of names; --json tells all about each task.

    \b
    Example:
      prompt-jax tasks list --family=super_glue
    """
    use_data_dir(data_dir)
    import_tasks(tasks_module)
    from prompt_jax.cli.task_list import describe_families, describe_family, families, list_tasks

    tasks = list_tasks()
    rows = describe_families(tasks) if family is None else describe_family(tasks, family)
    if json:
        print_json(tasks if family is None else families(tasks)[family])
    elif family is None:
        print_table(f"{len(tasks)} tasks and mixtures; --family=NAME shows one family", rows)
    else:
        print_table(family, rows)


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
    """Shows examples of a task as the model reads them.

    \b
    Example:
      prompt-jax tasks show vader_polarity --split=train --backbone=nano
    """
    use_data_dir(data_dir)
    import_tasks(tasks_module)
    from prompt_jax.cli.task_list import show_task

    examples = show_task(name, split, n, _loaded(backbone))
    if json:
        print_json(examples)
    else:
        print_rows(f"{name}, {split}", examples)


@tasks_app.command("check")
def tasks_check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|TASK", help="A file of rows, a folder of them, or a task."
        ),
    ],
    backbone: MaybeBackbone = None,
    input_length: InputLength = None,
    target_length: TargetLength = None,
    tasks_module: TasksModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Shows problems, lengths and labels of a file or a task. Exit code 2 if it cannot be used.

    \b
    Example:
      prompt-jax tasks check train.jsonl --backbone=nano --input_length=64
    """
    from prompt_jax.cli.task_check import check_jsonl, check_task

    use_data_dir(data_dir)
    import_tasks(tasks_module)
    is_file = names_rows(name)
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
            shown = {key: value for key, value in facts.items() if key != "named"}
            print_facts(f"{facts['task']}, {facts['split']}", shown)
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


def _loaded(backbone: str | None) -> Any:
    if backbone is None:
        return None
    from prompt_jax.backbone.load import load_backbone

    return load_backbone(backbone)
