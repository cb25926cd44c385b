"""The verb `bench`; nothing heavy is imported before it runs."""

from typing import Annotated, Any

import typer

from prompt_jax.cli.options import Debug, Json
from prompt_jax.cli.show import print_json, print_table

NAMES = "step, tasks, peak, farm, decode, rank, startup, memory, growth or reading."


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help=NAMES)],
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="peft|transformers", help="Measure this as well, in turns."
        ),
    ] = None,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="The T5's shape: nano, t5_small, t5_base.")
    ] = "t5_small",
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", metavar="T,T,...", help="Tasks of SuperGLUE, or superglue for all of them."
        ),
    ] = None,
    prompt: Annotated[int, typer.Option("--prompt", metavar="P", help="Rows of the prompt.")] = 100,
    columns: Annotated[
        int, typer.Option("--columns", metavar="N", help="Tokens of text in a packed step.")
    ] = 4096,
    batch: Annotated[
        int, typer.Option("--batch", metavar="B", help="Examples in a padded step.")
    ] = 8,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="How often each side is measured.")
    ] = 5,
    members: Annotated[
        int, typer.Option("--members", metavar="N", help="Members of the farm.")
    ] = 8,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", help="Training steps of each command of a farm.")
    ] = 300,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measures how fast this machine trains and answers.

    Weights and tokens are random. Sides take turns. A ratio is the median over rounds, above 1
    where ours is the faster; its spread is the 10th and the 90th percentile.

    \b
    Example:
      prompt-jax bench tasks --tasks=copa --against=peft
    """
    from prompt_jax.bench.cases import run
    from prompt_jax.bench.measure import report
    from prompt_jax.bench.settings import Bench

    chosen: dict[str, Any] = {} if tasks is None else {"tasks": tuple(tasks.split(","))}
    settings = Bench(
        size=size,
        prompt=prompt,
        columns=columns,
        batch=batch,
        rounds=rounds,
        against=against,
        members=members,
        steps=steps,
        **chosen,
    )
    measured = report(name, run(name, settings))
    if json:
        print_json(measured)
    else:
        print_table(f"bench {name}, load {measured['machine']['load']:.1f}", measured["rows"])
