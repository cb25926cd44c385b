"""The verb `convert`."""

from typing import Annotated

import typer

from prompt_jax.cli.options import Backbone, Debug, Json
from prompt_jax.cli.show import print_facts, print_json


def convert(
    backbone: Backbone,
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="orbax, hf, t5x or files.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="DIR",
            help="A new or empty folder; for T5X it is called checkpoint_STEP.",
        ),
    ],
    weights_dtype: Annotated[
        str | None,
        typer.Option(
            "--weights_dtype",
            metavar="DTYPE",
            help="A quantised copy: int8, int4 or float8_e4m3fn; only for orbax.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Writes a backbone in another format, or a quantised copy of it.

    Values are compared after writing; in another format they are the same bit by bit.

    \b
    Example:
      prompt-jax convert --backbone=t5x:/data/t5/checkpoint_1000000 --format=hf --output=/data/t5_hf
      prompt-jax convert --backbone=hf:/data/t5_hf --format=orbax --output=/data/t5_int8 \\
        --weights_dtype=int8
    """
    from prompt_jax.backbone.convert import convert as write

    done = write(backbone, format, output, weights_dtype)
    if json:
        print_json(done)
    else:
        print_facts(output, done)
