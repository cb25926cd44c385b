"""The verbs `gallery list` and `gallery get`."""

from pathlib import Path
from typing import Annotated

import typer

from prompt_jax.cli.options import Debug, Json
from prompt_jax.cli.show import print_facts, print_json, print_table

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="DIR",
        help="Folder of artefacts and .npy files; by default those of the package.",
    ),
]

gallery_app = typer.Typer(
    rich_markup_mode=None, help="Lists and copies prompts that ship with the package."
)


@gallery_app.command("list")
def list_prompts(source: From = None, json: Json = False, debug: Debug = False) -> None:
    """Lists the prompts that ship with the package, or in a folder.

    \b
    Example:
      prompt-jax gallery list
    """
    from prompt_jax.prompt import gallery

    folder = gallery.shelf() if source is None else Path(source)
    rows = [gallery.facts(name, path) for name, path in gallery.entries(folder).items()]
    if json:
        print_json(rows)
    else:
        shown = ("name", "task", "backbone", "rows", "score")  # cards and --json have the rest
        table = [{name: row[name] for name in shown} for row in rows]
        print_table("gallery" if source is None else source, table)


@gallery_app.command("get")
def get_prompt(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `gallery list` shows.")],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="PATH",
            help="Where to copy it; must not exist yet. A .npy stays a .npy.",
        ),
    ],
    source: From = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Copies a prompt, with its card, to a folder of yours.

    `eval`, `infer`, `serve` and `export` take it from there.

    \b
    Example:
      prompt-jax gallery get nano_empath_topic --output=topic
    """
    from prompt_jax.prompt import gallery

    about = gallery.get(name, gallery.shelf() if source is None else Path(source), output)
    if json:
        print_json(about)
    else:
        print_facts(output, about)
