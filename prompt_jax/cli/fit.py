"""The verb `fit`; nothing heavy is imported before it runs."""

from typing import Annotated

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
        str | None, typer.Option("--batch", metavar="auto", help="Find the largest that fits.")
    ] = None,
    mesh: Annotated[
        str | None, typer.Option("--mesh", metavar="auto", help="Rank the meshes, take the best.")
    ] = None,
    price: Annotated[
        float | None,
        typer.Option("--price", metavar="USD", min=0.0, help="Of a chip per hour."),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="The decoding of an evaluation, not the train step.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Says what a recipe's step takes of hardware that is not here. Exit code 2 if it does not fit.

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
    cfg = config.load("Train", gin_file, ctx.obj, folders(gin_search_paths))

    from prompt_jax.fit import search, verdict

    searched = search.search(cfg.root, wanted, decode, batch is not None, mesh is not None)
    facts = verdict.verdict(searched.run, searched.config, wanted, searched.found, decode, price)
    facts["tried"] = searched.tried
    if json:
        print_json(facts)
    else:
        if searched.tried:
            print_table("tried", searched.tried)
        print_facts(f"fit {facts['topology']}", verdict.table(facts))
        print(verdict.sentence(facts))
    if not facts["fits"]:
        raise typer.Exit(2)
