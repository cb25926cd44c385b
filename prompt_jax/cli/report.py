"""The verb `report`; nothing heavy is imported before it runs."""

from typing import Annotated

import typer

from prompt_jax.cli.options import Debug


def report(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR...", help="A --model_dir, a folder of runs, or the FILE.jsonl of a board."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE.html",
            help="By default DIR/report.html, or FILE.html of a board.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Shows runs on one HTML page.

    The page opens from disk and needs no network. DIR is a run, or a folder of runs: seeds, stages,
    members of a farm, or any others. Several are compared. A board is the FILE.jsonl of a
    benchmark, methods by tasks: docs/scoreboard.jsonl.

    \b
    Example:
      prompt-jax report runs/soft runs/lora --output=compared.html
    """
    from prompt_jax.inspect.report import write_report

    print(write_report(folders, output))
