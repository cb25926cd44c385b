"""Rank classification: 4 choices against 1, and against repeating the input for every choice.

    python benchmarks/rank_classification.py [--json]

The encoder runs once per example, so that more choices cost decoder steps of a few tokens only. The
shape is bound by the encoder: 8 rows of 256 tokens, choices of 4, a T5 1.1 of 8 layers with random
weights, float32. The three are timed in turns, and ratios are of medians. Takes about half a minute
on two CPU cores.
"""

import argparse
import json
import time
from functools import partial

import jax
import numpy as np
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.model import decode, t5
from prompt_jax.model.bundle import NO_PROMPT

ROWS, COLUMNS, TOKENS, CHOICES, ROUNDS = 8, 256, 4, 4, 5
CONFIG = t5.T5Config(8192, 256, 8, 32, 512, 8, 8, dtype="float32")


@partial(jax.jit, static_argnums=0)
def score(graphdef, params, batch, choices):
    """float32 [rows, choices]."""
    return decode.score(nnx.merge(graphdef, params), batch, NO_PROMPT, choices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    graphdef, params = nnx.split(weights.init(CONFIG, 0))
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, CONFIG.vocab_size, (ROWS, COLUMNS)).astype(np.int32)
    choices = rng.integers(2, CONFIG.vocab_size, (ROWS, CHOICES, TOKENS)).astype(np.int32)
    repeated = np.repeat(tokens, CHOICES, axis=0), choices.reshape(-1, 1, TOKENS)
    runs = {
        "1 choice": (tokens, choices[:, :1]),
        "4 choices": (tokens, choices),
        "4 choices, input repeated": repeated,
    }
    scores, seconds = {}, {name: [] for name in runs}
    for turn in range(ROUNDS + 1):  # the first compiles
        for name, (inputs, targets) in runs.items():
            began = time.perf_counter()
            batch = {"encoder_input_tokens": inputs}
            scores[name] = np.asarray(score(graphdef, params, batch, targets))
            if turn:
                seconds[name].append(time.perf_counter() - began)
    same = scores["4 choices, input repeated"].reshape(ROWS, CHOICES)
    np.testing.assert_allclose(scores["4 choices"], same, rtol=1e-4)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    ratios = {name: value / median["1 choice"] for name, value in median.items()}
    if as_json:
        print(json.dumps({"seconds": median, "ratio_to_1_choice": ratios}))
        return
    for name in runs:
        print(f"{name:27s} {1000 * median[name]:8.1f} ms   {ratios[name]:.2f} x 1 choice")


if __name__ == "__main__":
    main()
