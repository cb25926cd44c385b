"""What input costs a T5 small: seconds to open a task, and the share of step time spent waiting.

    python benchmarks/input.py --data_dir=DIR --vocabulary=FILE.model [--task=TASK] [--json]

Opened twice: the tokens of its texts made, then found again (`token_cache`). Trained twice by the
real `train` (random:t5_1_1_small, prompt 100, 512/16 tokens, packed): each batch made when it is
asked for, then made ready in a thread (`prefetch`). The share is `input_share` of metrics.jsonl,
but for the first record, in which the step is compiled. Minutes of two CPU cores; exit code 1 if
the thread leaves 5 % or more.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.cli.options import use_data_dir
from prompt_jax.data import token_cache
from prompt_jax.errors import UserError
from prompt_jax.recipe import config
from prompt_jax.run.log import Meter, read_metrics
from prompt_jax.run.settings import Train
from prompt_jax.run.train import train

STEPS, RECORD, BOUND = 12, 3, 0.05
RECIPE = (
    "INPUT_LENGTH=512",
    "TARGET_LENGTH=16",
    "BATCH_SIZE=2",
    f"TRAIN_STEPS={STEPS}",
    f"CHECKPOINT_PERIOD={STEPS}",
    f"Train.log_period={RECORD}",
    "Data.packed=True",
    "BEST_METRIC=None",
    "Train.evaluation=None",
    "SoftPrompt.init=@UniformInit()",
    "Backbone.dtype='float32'",
)


class AsAsked:
    """In the place of `Prefetch`: makes every batch when it is asked for."""

    def __init__(self, make, steps):
        self.make = make

    def next(self, step: int, meter: Meter) -> Any:
        began = time.perf_counter()
        made = self.make(step)
        meter.waited += time.perf_counter() - began
        return made

    def close(self) -> None:
        pass


def opening(run: Train, vocabulary: Vocabulary) -> dict[str, float]:
    """Seconds to read the texts, and to open them with their tokens made and found."""
    began = time.perf_counter()
    text = run.data.read()
    seconds = {"read": time.perf_counter() - began}
    for name in ("open, tokens made", "open, tokens found"):
        began = time.perf_counter()
        text.open(vocabulary, run.method.layout, run.seed)
        seconds[name] = time.perf_counter() - began
    return seconds


def training(run: Train, folder: str) -> dict[str, float]:
    """Means over the records but the first."""
    train(run, folder)
    records = [r for r in read_metrics(folder) if r["kind"] == "train"][1:]
    names = ("input_share", "seconds_per_step", "examples")
    return {name: float(np.mean([record[name] for record in records])) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description="What input costs a T5 small.")
    parser.add_argument("--data_dir")
    parser.add_argument("--vocabulary", required=True)
    parser.add_argument("--task", default="taskless_super_glue_multirc")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    module = importlib.import_module("prompt_jax.run.train")  # the name alone is the function's
    use_data_dir(options.data_dir)
    backbone = f"random:t5_1_1_small?vocabulary={options.vocabulary}"
    bindings = [*RECIPE, f"BACKBONE={backbone!r}", f"TASK={options.task!r}"]
    run = config.load("Train", ["runs/superglue.gin"], bindings).root
    found: dict[str, Any] = {"task": options.task}
    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch.object(token_cache, "folder", lambda: Path(place, "tokens")),
    ):
        found["seconds"] = opening(run, Vocabulary.from_file(options.vocabulary))
        with mock.patch.object(module, "Prefetch", AsAsked):
            found["as asked"] = training(run, f"{place}/as_asked")
        found["ahead"] = training(run, f"{place}/ahead")
    if options.json:
        print(json.dumps(found))
    else:
        show(found)
    sys.exit(found["ahead"]["input_share"] >= BOUND)


def show(found: dict[str, Any]) -> None:
    print(found["task"])
    for name, seconds in found["seconds"].items():
        print(f"{name:20s} {seconds:7.2f} s")
    for name in ("as asked", "ahead"):
        row = found[name]
        print(
            f"batches made {name:9s} {100 * row['input_share']:.2f} % of a step of "
            f"{row['seconds_per_step']:.2f} s, {row['examples']:.0f} examples"
        )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"input: error: {error}")
