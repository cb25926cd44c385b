"""X-Gen's unseen pairs: the composed prompt beside average prompts, on mnano.

    python benchmarks/x_gen.py [--seeds=0,1,2] [--draw] [--gin=NAME=VALUE] [--output=docs/x_gen]

Each seed trains `runs/x_gen_mnano.gin` once; its prompts for the pairs that were never trained are
scored in four ways. A finished seed is a line of OUTPUT.jsonl for each; OUTPUT.md is drawn from
them. Run again, it goes on with what is missing or stale.
"""

import argparse
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import scoreboard
from scoreboard_table import shown

RECIPE = "runs/x_gen_mnano.gin"
OUTPUT = "docs/x_gen"
TASK = "cldr_name_currency"
# Row: (title, what of the factorised prompt is taken; None: each example's own pair).
WAYS = {
    "composed": ("the pair's own rows", None),
    "task": ("the task's rows, the mean of the languages'", f"language=mean&task={TASK}"),
    "english": ("the task's rows, English ones", f"language=en&task={TASK}"),
    "average": ("the mean of all rows (the control)", "language=mean&task=mean"),
}


def scored(run: Any, operative: str) -> list[dict[str, float]]:
    """Trains in a folder that is thrown away; the metrics of each of WAYS."""
    from prompt_jax.evaluate.opening import opening
    from prompt_jax.evaluate.prompts import evaluate_prompts
    from prompt_jax.run.train import train

    found, asked = [], run.evaluation
    with tempfile.TemporaryDirectory() as folder:
        train(run, folder, operative=operative)
        prompt = str(Path(folder, "prompt", "last"))
        for _, names in WAYS.values():
            report, _ = evaluate_prompts(
                opening(run.backbone.name, [f"{prompt}?{names}" if names else prompt]),
                asked.task,
                asked.split,
                max_examples=asked.max_examples,
                answering=asked.answering,
            )
            found.append({k: v for k, v in report.items() if k.endswith("accuracy")})
    return found


def run_seed(board: Any, seed: int, more: Sequence[str]) -> None:
    """Keeps the lines of a seed, unless they are there and of this recipe and backbone."""
    from prompt_jax.backbone.load import load_backbone
    from prompt_jax.recipe import config
    from prompt_jax.version import __version__

    bindings = [f"SEED={seed}", *more]
    run = config.load("Train", [RECIPE], bindings)
    digest = load_backbone(run.root.backbone.name, "float32").digest
    recipe = scoreboard.fingerprint(run, bindings)
    kept = [board.kept.get((way, "unseen", seed)) for way in WAYS]
    if all(line and (line["digest"], line["recipe"]) == (digest, recipe) for line in kept):
        print(f"seed {seed} is kept")
        return
    began = time.perf_counter()
    metrics = scored(run.root, run.operative)
    words = [f"--gin_file={RECIPE}", "--model_dir=D", *(f"--gin.{b}" for b in bindings)]
    for way, found in zip(WAYS, metrics, strict=True):
        told = {"row": way, "column": "unseen", "seed": seed, "value": round(found["accuracy"], 2)}
        told |= {"metrics": found, "digest": digest, "recipe": recipe, "prompt_jax": __version__}
        told["backbone"] = run.root.backbone.name
        told["date"] = datetime.now().astimezone().isoformat(timespec="seconds")
        told["command"] = shlex.join(["prompt-jax", "train", *words])
        board.keep(told | {"seconds": round(time.perf_counter() - began, 1)})
        print(f"{way}, seed {seed}: {found['accuracy']:.1f}", flush=True)


def draw(lines: Sequence[dict[str, Any]], command: str) -> str:
    """The page, as Markdown."""
    if not lines:
        return "# Prompts of unseen pairs\n\nNo seed is finished yet.\n"
    names = sorted({name for line in lines for name in line["metrics"] if "/" in name})
    titles = [re.sub(r"^.*_(\w+)/.*$", r"\1", name) for name in names]
    used = sorted({f"`{line['backbone']}` {line['digest'][:12]}" for line in lines})
    dates = sorted({line["date"][:10] for line in lines})
    when = " to ".join(sorted({dates[0], dates[-1]}))
    text = [
        "# Prompts of unseen pairs\n",
        f"Drawn by `{command}`; run {when} on {', '.join(used)}.\n",
        "Factorised prompts (X-Gen, Vu et al. 2022): rows of the language, then rows of the task.",
        "They learn what territories, languages and currencies are called in thirteen languages,",
        "but no currencies in the three below; then they name held-out currencies in these. The",
        "input is the English name alone. Accuracy, in percent, of choosing among the names in all",
        "thirteen languages (by chance 7.7); mean over seeds, ± the standard deviation (n - 1).\n",
        f"| | {' | '.join(titles)} | mean |",
        "|---" * (len(names) + 2) + "|",
    ]
    for way, (title, _) in WAYS.items():
        found = [line for line in lines if line["row"] == way]
        columns = [[line["metrics"][name] for line in found] for name in names]
        columns.append([line["value"] for line in found])
        cells = [shown(column, len(column)) for column in columns]
        text.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def fill(arguments: argparse.Namespace, command: str) -> None:
    from prompt_jax.run.seeds import parse_seeds

    scoreboard.own_output(arguments.output, OUTPUT, arguments.gin)
    board = scoreboard.Board(arguments.output, {})
    for seed in () if arguments.draw else parse_seeds(arguments.seeds):
        run_seed(board, seed, arguments.gin)
        board.table_file.write_text(draw(list(board.kept.values()), command))
    board.table_file.write_text(draw(list(board.kept.values()), command))
    print(board.table_file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a wrong argument, 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="with commas")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--output", default=OUTPUT, help="without .jsonl and .md")
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more binding of every run",
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = shlex.join(["python", "benchmarks/x_gen.py", *words])
    return scoreboard.exit_code("x_gen", partial(fill, parser.parse_args(words), command))


if __name__ == "__main__":
    sys.exit(main())
