"""The verb `fit`; nothing heavy is imported before it runs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prompt_jax.cli.options import (
    Debug,
    GinFiles,
    GinSearchPaths,
    Json,
    MethodsModules,
    folders,
    import_methods,
)
from prompt_jax.cli.show import print_facts, print_json, print_table
from prompt_jax.errors import UserError

if TYPE_CHECKING:
    from prompt_jax.fit.search import Search

Topology = Annotated[
    str,
    typer.Option("--topology", metavar="CHIP:SIZES", help="v5e:4x4, v5p:4x4x4, v6e:8x8, h100:8."),
]


def fit(
    ctx: typer.Context,
    gin_file: GinFiles,
    topology: Topology,
    gin_search_paths: GinSearchPaths = "",
    methods_module: MethodsModules = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", metavar="auto", help="Find the largest batch that fits."),
    ] = None,
    mesh: Annotated[
        str | None,
        typer.Option("--mesh", metavar="auto", help="Rank the meshes and take the best."),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option("--price", metavar="USD", min=0.0, help="Price of a chip per hour."),
    ] = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode", help="Look at the decoding of an evaluation instead of the training step."
        ),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Says what a recipe needs of hardware that you do not have. Exit code 2 if it does not fit.

    For a recipe of stages: the step of each stage, and which needs the most.

    \b
    Example:
      prompt-jax fit --gin_file=runs/xxl.gin --topology=v5e:4x4 --price=1.2
    """
    from prompt_jax.fit import chips
    from prompt_jax.recipe import config

    wanted = chips.parse(topology)
    for name, value in (("batch", batch), ("mesh", mesh)):
        if value not in (None, "auto"):
            macro = {"batch": "--gin.BATCH_SIZE=N", "mesh": "--gin.MeshShape.model=N"}[name]
            raise UserError(f"--{name}={value}", remedy=f"give auto, or {macro}")
    import_methods(methods_module)
    cfg = config.load(("Stages", "Train"), gin_file, ctx.obj, folders(gin_search_paths))

    from prompt_jax.fit.search import search
    from prompt_jax.run.stages import Stages, shaped

    root = cfg.root
    runs = shaped(root) if isinstance(root, Stages) else [root]
    pages = []
    for run in runs:
        searched = search(run, wanted, decode, batch is not None, mesh is not None)
        pages.append(_page(searched, price))
        if not json:
            _print(pages[-1], f"stage {len(pages)}: " if isinstance(root, Stages) else "")
    fits = all(page["fits"] for page in pages)
    if isinstance(root, Stages):
        peaks = [page["memory"]["peak"] for page in pages]
        largest = peaks.index(max(peaks)) + 1
        if json:
            print_json({"fits": fits, "largest": largest, "stages": pages})
        else:
            print(f"stage {largest} takes the most")
    elif json:
        print_json(pages[0])
    if not fits:
        raise typer.Exit(2)


def _page(searched: "Search", price: float | None) -> dict[str, Any]:
    """All that is known of one step."""
    from prompt_jax.fit.verdict import verdict

    run, config, topology = searched.run, searched.config, searched.topology
    facts = verdict(run, config, topology, searched.analysis, searched.decode, price)
    return {**facts, "tried": searched.tried}


def _print(facts: dict[str, Any], stage: str) -> None:
    from prompt_jax.fit.verdict import sentence, table

    if facts["tried"]:
        print_table(f"{stage}tried", facts["tried"])
    print_facts(f"{stage}fit {facts['topology']}", table(facts))
    print(f"{stage}{sentence(facts)}")
