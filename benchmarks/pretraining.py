"""How fast a pretraining recipe goes on this machine, and how near its matrix products are to the
fastest that the machine does.

    python benchmarks/pretraining.py --corpus=DATA/corpus [--gin_file=RECIPE] [--vocabulary=FILE]

Steps of the recipe's first stage on random weights and real rows, in turns with products of two
float32 matrices of 2048 x 2048; the best of each counts. FLOPs are those of the step's own
products, forward and backward. Tokens are the columns of encoder and decoder, all of them real. The
vocabulary is learned first, unless one is given. A minute on two CPU cores that do nothing else.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.recipe import config
from prompt_jax.run import flops
from prompt_jax.run.job import Run

SIZE, STEPS, ROUNDS = 2048, 3, 6


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def measure(recipe: str, corpus: str, vocabulary: str | None) -> dict[str, float]:
    """Figures of a recipe: tokens/s, FLOP/s of its step and of the product, their ratio."""
    root = config.load("Pretrain", [recipe], [f"CORPUS={corpus}"]).root
    with tempfile.TemporaryDirectory() as folder:
        spiece = Path(vocabulary or f"{folder}/spiece.model")
        if vocabulary is None:
            root.vocabulary.make(spiece)
        first = root.stages[0]
        backbone = dataclasses.replace(first.backbone, vocabulary=str(spiece))
        run = dataclasses.replace(first, backbone=backbone, evaluation=None, best_metric=None)
        job = Run(run, epath.Path(folder))
    state, batch = job.first_state(), job.batch(0)[0]
    per_step = flops.of_jaxpr(jax.make_jaxpr(job.train_step)(state, job.frozen, batch).jaxpr)
    square = jnp.ones((SIZE, SIZE), jnp.float32)
    product = jax.jit(jnp.matmul)

    def steps() -> Any:
        nonlocal state
        for _ in range(STEPS):
            state, metrics = job.train_step(state, job.frozen, batch)
        return metrics

    best = {"steps": float("inf"), "product": float("inf")}
    for _ in range(ROUNDS):
        best["steps"] = min(best["steps"], seconds(steps) / STEPS)
        best["product"] = min(best["product"], seconds(lambda: product(square, square)))
    columns = batch["encoder_input_tokens"].size + batch["decoder_target_tokens"].size
    step_rate, peak = per_step / best["steps"], 2 * SIZE**3 / best["product"]
    return {
        "seconds_per_step": best["steps"],
        "tokens_per_second": columns / best["steps"],
        "step_gflops": step_rate / 1e9,
        "product_gflops": peak / 1e9,
        "share": step_rate / peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--gin_file", default="runs/pretrain_nano.gin")
    parser.add_argument("--vocabulary", help="a SentencePiece model; default: learned anew")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        found = measure(options.gin_file, options.corpus, options.vocabulary)
    except UserError as error:
        sys.exit(f"pretraining: error: {error}")
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{options.gin_file}: {found['seconds_per_step']:.2f} s a step, "
        f"{found['tokens_per_second']:,.0f} tokens/s; its products {found['step_gflops']:.0f} "
        f"GFLOP/s of {found['product_gflops']:.0f}, {found['share']:.0%}"
    )


if __name__ == "__main__":
    main()
