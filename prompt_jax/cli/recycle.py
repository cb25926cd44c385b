"""The verb `recycle`."""

import sys
from typing import Annotated

import typer

from prompt_jax.cli.options import (
    Backbone,
    DataDir,
    Debug,
    Json,
    TasksModules,
    import_tasks,
    use_data_dir,
)
from prompt_jax.cli.show import print_facts, print_json
from prompt_jax.errors import UserError


def recycle(
    prompt: Annotated[
        list[str],
        typer.Option(
            "--prompt", metavar="DIR", help="Artefact or .npy; relative takes several: repeat it."
        ),
    ],
    source: Annotated[
        list[str],
        typer.Option(
            "--from",
            metavar="NAME",
            help="Backbone that each prompt was tuned for, in order.",
        ),
    ],
    backbone: Backbone,
    output: Annotated[
        str,
        typer.Option("--output", metavar="DIR", help="Where to write the artefact for --backbone."),
    ],
    kind: Annotated[
        str, typer.Option("--how", metavar="MAP", help="linear, combination, mlp or relative.")
    ] = "linear",
    skip: Annotated[
        int,
        typer.Option(
            "--skip", metavar="N", min=0, help="How many of the commonest pieces to leave out."
        ),
    ] = 1000,
    pieces: Annotated[
        int, typer.Option("--pieces", metavar="N", min=2, help="How many shared pieces to fit.")
    ] = 4000,
    ridge: Annotated[
        float,
        typer.Option(
            "--ridge",
            metavar="R",
            min=0.0,
            help="Ridge penalty of combination; 0: the same as linear.",
        ),
    ] = 0.1,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of mlp and relative.")
    ] = 0,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=1, help="Steps of relative's search.")
    ] = 2000,
    top: Annotated[
        int,
        typer.Option("--top", metavar="N", min=1, help="relative: how many pieces describe a row."),
    ] = 8192,
    norm: Annotated[
        str,
        typer.Option(
            "--norm",
            metavar="KIND",
            help="relative: scale rows to the table's norms, or by their ratio in the source.",
        ),
    ] = "table",
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="NAME",
            help="Task whose examples choose among relative's candidates; none: their cosine.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Split of --task.")
    ] = "validation",
    max_examples: Annotated[
        int | None,
        typer.Option("--max_examples", metavar="N", min=1, help="Only the first N of --split."),
    ] = None,
    tasks_module: TasksModules = None,
    data_dir: DataDir = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Maps a prompt to another backbone.

    The map goes through the embeddings of pieces that both vocabularies have.

    \b
    Example:
      prompt-jax recycle --prompt=/tmp/span/prompt/best --from=nano_span --backbone=nano \\
        --how=linear --output=/tmp/recycled
    """
    from prompt_jax.transfer.recycle import Fit
    from prompt_jax.transfer.recycle import recycle as write
    from prompt_jax.transfer.relative import Search

    if norm not in ("table", "ratio"):
        raise UserError(f"--norm={norm}", remedy="give table or ratio")
    use_data_dir(data_dir)
    import_tasks(tasks_module)
    search = Search(steps, max(steps // 10, 1), top, norm)
    scored_on = None if task is None else (task, split)
    fit = Fit(kind, skip, pieces, ridge, seed, search, scored_on, max_examples)
    record = write(prompt, source, backbone, output, fit)
    if json:
        print_json(record)
    else:
        print_facts(output, record)
    if (record.get("held_out_error") or 0.0) >= 1.0:
        text = "warning: on held-out pieces the map is no better than zeros; try another --how"
        print(text, file=sys.stderr)
