"""The verb `migrate`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from prompt_jax.cli.options import Debug, GinSearchPaths, folders
from prompt_jax.errors import UserError


def migrate(
    ctx: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE.gin...", help="Their files; a later one overrides an earlier one."
        ),
    ],
    gin_search_paths: GinSearchPaths = "",
    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="FILE", help="Where to write; by default standard output."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Turns gin files of T5X or prompt-tuning into a recipe.

    Give the files of one of their commands in its order, and its --gin. bindings. A line that has
    no counterpart here is named with the reason, and the exit code is 2.

    \b
    Example:
      prompt-jax migrate prompt_tuning/configs/models/t5_1_1_base_prompt.gin \\
        prompt_tuning/configs/runs/prompt_finetune.gin --output=mine.gin
    """
    from prompt_jax.recipe.migrated import migrate as translate

    text, missing = translate(recipes, ctx.obj or [], folders(gin_search_paths))
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            Path(output).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--output={output}", error.strerror or str(error)) from error
    if missing:
        for line, reason in missing:
            print(f"{line.place}: {line}: no counterpart: {reason}", file=sys.stderr)
        count = "1 line has" if len(missing) == 1 else f"{len(missing)} lines have"
        where = f"the rest is in {output}" if output else "the rest is on standard output"
        raise UserError(recipes[-1], f"{count} no counterpart; {where}", "translate them by hand")
