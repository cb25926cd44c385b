"""The verbs `export` and `import`; nothing heavy is imported before one of them runs."""

from functools import partial
from typing import Annotated, Any

import typer

from prompt_jax.cli.options import (
    Backbone,
    DataDir,
    Debug,
    Json,
    MethodsModules,
    TasksModules,
    import_methods,
    import_tasks,
    use_data_dir,
)
from prompt_jax.cli.show import print_facts, print_json
from prompt_jax.errors import UserError

Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="FORMAT", help="npy, peft, t5x, orbax, stablehlo, saved_model or hf."
    ),
]
Output = Annotated[
    str, typer.Option("--output", metavar="PATH", help="Where to write; must not exist yet.")
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Task whose text is used to compare; by default the prompt's own.",
    ),
]
Split = Annotated[str, typer.Option("--split", metavar="SPLIT", help="Split of that task.")]
Unverified = Annotated[
    bool, typer.Option("--unverified", help="Skip the check with the format's own reader.")
]
OtherBackbone = Annotated[
    bool,
    typer.Option(
        "--allow_other_backbone", help="Take a prompt that was tuned for another backbone."
    ),
]


def export(
    prompt: Annotated[str, typer.Option("--prompt", metavar="DIR", help="An artefact, or a .npy.")],
    format: Format,
    output: Output,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", metavar="NAME", help="By default the one that the prompt names."
        ),
    ] = None,
    task: Task = None,
    split: Split = "validation",
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Merge LoRA or (IA)3 into a whole backbone; hf or t5x."),
    ] = False,
    weights_inside: Annotated[
        bool,
        typer.Option(
            "--weights_inside",
            help="With stablehlo: put the weights into the programs, not beside them.",
        ),
    ] = False,
    unverified: Unverified = False,
    allow_other_backbone: OtherBackbone = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Writes a prompt for another program, and checks it.

    The check is done with that program's own reader, in a new process.

    \b
    Example:
      prompt-jax export --prompt=/tmp/run/prompt/best --format=peft --output=/tmp/adapter
      prompt-jax export --prompt=/tmp/lora/prompt/best --format=hf --merge --output=/tmp/model
    """
    _prepare(tasks_module, methods_module, data_dir)
    from prompt_jax.export.merge import export_merged
    from prompt_jax.export.run import export_prompt

    if weights_inside and (merge or format != "stablehlo"):
        raise UserError("--weights_inside", "works with --format=stablehlo alone", "leave it out")
    own = {"weights_inside": True} if weights_inside else {}
    write = partial(export_prompt, **own) if not merge else export_merged
    record = write(
        prompt=prompt,
        format=format,
        output=output,
        backbone=backbone,
        task=task,
        split=split,
        unverified=unverified,
        allow_other_backbone=allow_other_backbone,
    )
    _report(output, record, json)


def import_(
    source: Annotated[str, typer.Option("--from", metavar="PATH", help="A file or folder.")],
    format: Format,
    backbone: Backbone,
    output: Output,
    task: Task = None,
    split: Split = "validation",
    tasks_module: TasksModules = None,
    methods_module: MethodsModules = None,
    data_dir: DataDir = None,
    unverified: Unverified = False,
    allow_other_backbone: OtherBackbone = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Makes an artefact of another program's prompt, and checks it.

    The check is done with that program's own reader, in a new process.

    \b
    Example:
      prompt-jax import --from=sst2.npy --format=npy --backbone=hf:google/t5-base-lm-adapt \\
        --output=/tmp/sst2
    """
    _prepare(tasks_module, methods_module, data_dir)
    from prompt_jax.export.run import import_prompt

    record = import_prompt(
        source=source,
        format=format,
        backbone=backbone,
        output=output,
        task=task,
        split=split,
        unverified=unverified,
        allow_other_backbone=allow_other_backbone,
    )
    _report(output, record, json)


def _prepare(
    tasks_module: list[str] | None, methods_module: list[str] | None, data_dir: str | None
) -> None:
    use_data_dir(data_dir)
    import_methods(methods_module)
    import_tasks(tasks_module)


def _report(output: str, record: dict[str, Any], json: bool) -> None:
    if json:
        print_json(record)
    else:
        print_facts(output, {name: v for name, v in record.items() if name != "manifest"})
