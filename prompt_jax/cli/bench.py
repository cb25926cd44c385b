"""The verb `bench`; nothing heavy is imported before it runs."""

from typing import Annotated, Any

import typer

from prompt_jax.cli.options import Debug, Json
from prompt_jax.cli.show import print_json, print_table


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="step, tasks, peak, rank or growth.")],
    against: Annotated[
        str | None, typer.Option("--against", metavar="peft", help="Measure it in the same turns.")
    ] = None,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="The T5's shape: nano, t5_small, t5_base.")
    ] = "t5_small",
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="T,T,...", help="Some of copa, wic, rte, cb.")
    ] = None,
    prompt: Annotated[int, typer.Option("--prompt", metavar="P", help="Rows of the prompt.")] = 100,
    columns: Annotated[
        int, typer.Option("--columns", metavar="N", help="Tokens of text in a packed step.")
    ] = 4096,
    batch: Annotated[
        int, typer.Option("--batch", metavar="B", help="Examples of a padded step.")
    ] = 8,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="How often each side is measured.")
    ] = 5,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measures how fast this machine trains and ranks, on random weights and tokens.

    Sides take turns. A ratio is the median over rounds, above 1 where ours is the faster; its
    spread is the 10th and the 90th percentile.

    \b
    Example:
      prompt-jax bench tasks --tasks=copa --against=peft
    """
    from prompt_jax.bench.cases import Bench, run
    from prompt_jax.bench.measure import report

    chosen: dict[str, Any] = {} if tasks is None else {"tasks": tuple(tasks.split(","))}
    settings = Bench(
        size=size,
        prompt=prompt,
        columns=columns,
        batch=batch,
        rounds=rounds,
        against=against,
        **chosen,
    )
    measured = report(name, run(name, settings))
    if json:
        print_json(measured)
    else:
        print_table(f"bench {name}, load {measured['machine']['load']:.1f}", measured["rows"])
