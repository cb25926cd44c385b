"""The doctor's estimate of activations (`estimate.activation_bytes`), against what XLA allocates.

    python benchmarks/memory_estimate.py [--remat=dots] [--json]

The real training step of a prompt of 20 rows is compiled for one CPU device from shapes alone, per
size, rows, lengths, remat and dtype, and its temporaries (`memory_analysis().temp_size_in_bytes`)
are compared with the estimate. No weight is allocated. Minutes of two CPU cores.
"""

import argparse
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from prompt_jax.backbone import weights
from prompt_jax.fit import estimate
from prompt_jax.methods.base import PromptedT5, PromptParam
from prompt_jax.methods.soft import SoftPromptModule
from prompt_jax.model import sizes
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.optim import Adafactor, Schedule
from prompt_jax.prompt.layout import PromptLayout, lay_out
from prompt_jax.run.step import TrainState, make_train_step, split

PROMPT = 20
SHAPES = (  # size, rows, tokens of input and of target
    ("nano", 16, 64, 32),
    ("nano", 64, 128, 16),
    ("t5_1_1_small", 8, 128, 32),
    ("t5_1_1_small", 4, 512, 64),
    ("t5_small", 16, 256, 8),
    ("t5_1_1_base", 4, 256, 32),
)
REMAT = ("none", "full", "dots")
DTYPES = ("float32", "bfloat16")


def temporaries(size: str, rows: int, T: int, S: int, remat: str, dtype: str, device) -> tuple:
    """(bytes that XLA allocates beside arguments and results, bytes that we estimate)."""
    config = dataclasses.replace(sizes.SIZES[size], remat=remat, dtype=dtype, dropout_rate=0.1)
    layout, place = PromptLayout(encoder=PROMPT), SingleDeviceSharding(device)

    def shape(x, kind=None):
        return jax.ShapeDtypeStruct(x.shape, kind or x.dtype, sharding=place)

    graphdef, state = weights.abstract(config)
    held = jax.tree.map(lambda x: shape(x, jnp.dtype(dtype)), state)
    module = SoftPromptModule(np.ones((PROMPT, config.emb_dim), np.float32))
    whole, trainable, frozen = split(PromptedT5(nnx.merge(graphdef, held), module), PromptParam)
    tx = Adafactor(schedule=Schedule(learning_rate=0.3)).build()
    start = jax.tree.map(shape, TrainState(jnp.int32(0), trainable, tx.init(trainable)))
    tokens = {
        "encoder_input_tokens": np.ones((rows, T), np.int32),
        "decoder_input_tokens": np.ones((rows, S), np.int32),
        "decoder_target_tokens": np.ones((rows, S), np.int32),
    }
    batch = jax.tree.map(shape, lay_out(tokens, layout))
    step = make_train_step(
        whole, Loss(), tx, jax.random.key(0), jax.tree.map(lambda x: place, start)
    )
    memory = step.lower(start, frozen, batch).compile().memory_analysis()
    columns, platform = (T + layout.columns, S + layout.decoder), device.platform
    guess = estimate.activation_bytes(config, rows, *columns, platform)
    stored = sum(math.prod(x.shape) * jnp.dtype(dtype).itemsize for x in jax.tree.leaves(held))
    return memory.temp_size_in_bytes, guess + estimate.widened_bytes(stored, dtype, platform)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--remat", choices=REMAT, help="only this one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = jax.devices("cpu")[0]
    rows = []
    for remat in [options.remat] if options.remat else REMAT:
        for size, count, T, S in SHAPES:
            for dtype in DTYPES:
                xla, ours = temporaries(size, count, T, S, remat, dtype, device)
                rows.append(
                    {
                        "size": size,
                        "rows": count,
                        "inputs": T,
                        "targets": S,
                        "remat": remat,
                        "dtype": dtype,
                        "xla_MB": xla / 1e6,
                        "estimate_MB": ours / 1e6,
                        "ratio": ours / xla,
                    }
                )
                if not options.json:
                    print(
                        f"{size:14} {count:3} x {T:3}/{S:3} {remat:5} {dtype:9} "
                        f"XLA {xla / 1e6:8.1f} MB  estimate {ours / 1e6:8.1f} MB  "
                        f"{ours / xla:.2f}",
                        flush=True,
                    )
        if not options.json:
            ratios = [row["ratio"] for row in rows if row["remat"] == remat]
            print(
                f"estimate / XLA, remat {remat}: {min(ratios):.2f} to {max(ratios):.2f}, "
                f"mean {np.exp(np.mean(np.log(ratios))):.2f}",
                flush=True,
            )
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
