"""The verb `report`; nothing heavy is imported before it runs."""

from typing import Annotated

import typer

from prompt_jax.cli.options import Debug


def report(
    folders: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="A --model_dir, or a folder of runs.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE.html", help="By default DIR/report.html."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Shows runs on one page, FILE.html, which opens from disk and needs no network.

    DIR is a run, a folder of seeds, stages or members of a farm; several are compared.

    \b
    Example:
      prompt-jax report runs/soft runs/lora --output=compared.html
    """
    from prompt_jax.inspect.report import write_report

    print(write_report(folders, output))
