"""The verb `watch`; nothing heavy is imported before it runs."""

from typing import Annotated

import typer

from prompt_jax.cli.options import Debug


def watch(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A --model_dir, or a folder of runs.")
    ],
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=0.1, help="How often to update.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    debug: Debug = False,
) -> None:
    """Shows live runs in the terminal.

    Curves, ETA, tokens/s, share of the peak, and memory. Ctrl-C ends it.

    \b
    Example:
      prompt-jax watch runs/quickstart
    """
    from prompt_jax.inspect import watch as terminal

    terminal.watch(folder, seconds, once)
