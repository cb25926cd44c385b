"""The verb `recycle`."""

import sys
from typing import Annotated

import typer

from prompt_jax.cli.options import Backbone, Debug, Json
from prompt_jax.cli.show import print_facts, print_json


def recycle(
    prompt: Annotated[str, typer.Option("--prompt", metavar="DIR", help="Artefact or .npy.")],
    source: Annotated[
        str, typer.Option("--from", metavar="NAME", help="Backbone that the prompt was tuned for.")
    ],
    backbone: Backbone,
    output: Annotated[
        str,
        typer.Option("--output", metavar="DIR", help="Where to write the artefact for --backbone."),
    ],
    kind: Annotated[
        str, typer.Option("--how", metavar="MAP", help="linear, combination or mlp.")
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
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of mlp.")] = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """A prompt for another backbone, by a map between the embeddings of shared pieces.

    \b
    Example:
      prompt-jax recycle --prompt=/tmp/span/prompt/best --from=nano_span --backbone=nano \\
        --how=linear --output=/tmp/recycled
    """
    from prompt_jax.transfer.recycle import Fit
    from prompt_jax.transfer.recycle import recycle as write

    fit = Fit(kind, skip, pieces, ridge, seed)
    record = write(prompt, source, backbone, output, fit)
    if json:
        print_json(record)
    else:
        print_facts(output, record)
    if (record["held_out_error"] or 0.0) >= 1.0:
        text = "warning: on held-out pieces the map is no better than zeros; try another --how"
        print(text, file=sys.stderr)
