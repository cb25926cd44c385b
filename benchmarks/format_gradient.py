"""The cosine of a recipe's gradient and its format gradient, while it trains.

    python benchmarks/format_gradient.py [--gin_file=runs/promot_control_nano.gin]
        [--steps=0,10,100,400] [--batches=4] [--model_dir=DIR] [--gin=NAME=VALUE]

The format gradient is that of the same batch with its targets shuffled among the examples
(`prompt_jax/inspect/format_gradient.py`). Of a program of stages it is measured in the last one;
those before it are trained in `--model_dir`, or found there.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from statistics import mean

import scoreboard
from etils import epath

from prompt_jax.errors import UserError

CONTROL = "runs/promot_control_nano.gin"
STEPS = (0, 10, 20, 50, 100, 200, 400)


def fill(arguments: argparse.Namespace) -> None:
    """Prints a line for each step as it is measured."""
    from prompt_jax.cli.options import use_data_dir
    from prompt_jax.inspect.format_gradient import measure
    from prompt_jax.recipe import config
    from prompt_jax.run.settings import Train
    from prompt_jax.run.stages import Stages, resolved, train_stages

    steps = steps_of(arguments.steps)
    use_data_dir(arguments.data_dir)
    bindings = ["Data.packed=False", *arguments.gin]
    root = config.load(("Stages", "Train"), [arguments.gin_file], bindings).root
    with tempfile.TemporaryDirectory() as temporary:
        folder = epath.Path(arguments.model_dir or temporary)
        runs = [root] if isinstance(root, Train) else resolved(root, folder)
        if isinstance(root, Stages) and len(runs) > 1:
            train_stages(Stages(stages=root.stages[:-1]), str(folder))
        measure(runs[-1], str(folder), steps, arguments.batches, say)


def steps_of(text: str) -> list[int]:
    """The numbers of `0,10,100`."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--steps={text}: give whole numbers with commas") from None


def say(found: dict) -> None:
    cosines = found["cosines"]
    told = f"{min(cosines):.3f} to {max(cosines):.3f}"
    print(f"step {found['step']}: cosine {mean(cosines):.3f} ({told} over batches)", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a wrong argument, 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gin_file", default=CONTROL)
    parser.add_argument("--steps", default=",".join(map(str, STEPS)), help="with commas")
    parser.add_argument("--batches", type=int, default=4, help="measured at each step")
    parser.add_argument("--model_dir", help="of the stages before the last")
    parser.add_argument("--data_dir", help="default: PROMPT_JAX_DATA_DIR")
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more binding of the recipe",
    )
    parsed = parser.parse_args(arguments)
    return scoreboard.exit_code("format_gradient", partial(fill, parsed))


if __name__ == "__main__":
    sys.exit(main())
