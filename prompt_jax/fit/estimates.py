"""Memory and traffic of a step from shapes alone, where no compiler is at hand.

Weights are gathered where they lie split over `fsdp`; products split over `model` are summed, two
a layer in the encoder and three in the decoder, forward and back. What is saved for the backward
pass is written and read once. Everything else is left out.

Shapes: B rows of a chip, T encoder and S decoder columns (prompts included), D emb_dim, L layers.
"""

import jax.numpy as jnp
from jax.sharding import Mesh

from prompt_jax.fit import estimate
from prompt_jax.fit.cost import Cost
from prompt_jax.fit.program import answered
from prompt_jax.model.t5 import T5Config
from prompt_jax.run.settings import Train


def _sizes(run: Train, mesh: Mesh, decode: bool) -> tuple[int, int, int]:
    layout, data = run.method.layout, run.data
    rows = answered(run)[0] if decode else data.batch_size // run.accumulate
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    T, S = data.input_length + layout.columns, data.target_length + layout.decoder
    return max(1, rows // shards), T, S


def _cache(config: T5Config, B: int, T: int, S: int) -> int:
    """Bytes of the keys and values of a decoder."""
    item = jnp.dtype(config.dtype).itemsize
    return config.num_decoder_layers * B * (T + S) * config.num_heads * config.head_dim * 2 * item


def temporaries(run: Train, config: T5Config, mesh: Mesh, decode: bool) -> int:
    """Bytes on a chip besides what it is called with."""
    B, T, S = _sizes(run, mesh, decode)
    model = mesh.shape["model"]
    if decode:
        return _cache(config, B, T, S) * answered(run)[1].beams // model
    return estimate.activation_bytes(config, B, T, S, "gpu") // model  # as for any accelerator


def traffic(run: Train, config: T5Config, mesh: Mesh, memory: dict[str, int], decode: bool) -> Cost:
    """HBM bytes and collectives of a chip and step; FLOPs are not filled in."""
    B, T, S = _sizes(run, mesh, decode)
    data, fsdp, model = (mesh.shape[axis] for axis in ("data", "fsdp", "model"))
    again = config.remat == "full" and not decode
    passes = 1 if decode else 2 + again
    gathered = memory["weights"] * fsdp
    total = Cost()
    if decode:  # the decoder, half of the weights, is read for every column
        total.hbm = gathered / 2 * (1 + S) + S * memory["temporaries"]
    else:
        total.hbm = passes * run.accumulate * gathered + 2 * memory["temporaries"]
    if fsdp > 1:
        count = passes * run.accumulate
        total.count("all-gather", count, count * gathered * (fsdp - 1) / fsdp)
    if model > 1:
        item, D = jnp.dtype(config.dtype).itemsize, config.emb_dim
        rows = B * run.accumulate * D * item
        encoder, decoder = 2 * config.num_encoder_layers, 3 * config.num_decoder_layers
        sent = rows * (encoder * T + decoder * S) * passes * 2 * (model - 1) / model
        total.count("all-reduce", passes * (encoder + decoder), sent)
    if data * fsdp > 1 and not decode:
        k = data * fsdp
        total.count("all-reduce", 1, run.method.count(config) * 4 * 2 * (k - 1) / k)
    return total
