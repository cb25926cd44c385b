"""What an engine compiles: encoding a batch; prefilling and advancing slots; ranking; embedding.

The prompts of a batch come in as arrays by name whose axis X is its rows (`table.py`). A slot holds
what steps of the decoder read of its prompt, so that a prompt may go while a request still has it.
The encoder is compiled once for each shape of a batch, whatever is asked: a method that makes rows
from the text gives them to it as an array like any other.

Shapes: B slots, R rows of a batch, T encoder columns, D model width, P prompt rows, N tokens of
output, C choices.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_jax.methods.base import PromptedT5
from prompt_jax.model import cache, decode
from prompt_jax.model.bundle import Visibility
from prompt_jax.model.decode import Rows
from prompt_jax.model.t5 import encoder_segments
from prompt_jax.prompt.stack import ALL_AXES
from prompt_jax.serve.table import Sizes, bundle_of, dtype_of, stays

Arrays = dict[str, jax.Array]


@struct.dataclass
class Slots:
    """The state of all requests that are being answered.

    Attributes:
      rows: `decode.Rows` of B rows.
      own: what steps read of each row's prompt, arrays by name with X = B.
      sums: float32 [B, N], the log-probability of the tokens up to each.
      temperature, top_p: float32 [B]; temperature 0: greedy. top_k: int32 [B].
    """

    rows: Rows
    own: Arrays
    sums: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


class Programs(NamedTuple):
    """What is compiled for a mesh."""

    make_slots: Callable
    made_rows: Callable
    encode: Callable
    prefill: Callable
    advance: Callable
    score: Callable
    embed: Callable


def make_slots(graphdef, shape: tuple[int, int, int, int], sizes: Sizes, params) -> Slots:
    """Slots in which every row has ended; `shape`: slots, encoder columns, tokens of output, and
    the decoder columns of prompts."""
    t5 = nnx.merge(graphdef, params)
    slots, width, N, length = shape
    keys = decode.row_keys(jax.random.key(0), jnp.zeros(slots, jnp.int32), 1)
    blank = cache.empty(t5.config, slots, width, N + length)
    none, zeros = jnp.zeros(slots, jnp.int32), jnp.zeros(slots)
    rows = decode.start_rows(blank, jnp.ones(slots, bool), none, keys, N)
    own = {}
    for name, size in sizes:
        if stays(name):
            sized = [slots if a == "X" else n for a, n in zip(ALL_AXES[name], size, strict=True)]
            own[name] = jnp.zeros(sized, dtype_of(name))
    return Slots(rows, own, jnp.zeros((slots, N)), zeros, none, zeros)


def made_rows(graphdef, method, params, module, batch, rows: jax.Array) -> jax.Array:
    """float32 [R, P, D]: what the module of a method, `method` its structure, makes of each row's
    text; `rows` of zeros with what it makes first."""
    batch = _numbered(batch)
    made = PromptedT5(nnx.merge(graphdef, params), nnx.merge(method, module)).bundle(batch)
    assert made.encoder is not None
    ids = batch["prompt_ids"] if made.encoder_ids is None else made.encoder_ids[:, 0]
    each = made.encoder[ids if len(made.encoder) > 1 else jnp.zeros_like(ids)]
    return rows.at[:, : each.shape[1]].set(each)


def encode(graphdef, visibility: Visibility, params, batch, arrays: Arrays) -> jax.Array:
    """[R, T, D]: the encoder's output; `visibility` of all its prompt rows."""
    t5 = nnx.merge(graphdef, params)
    return t5.encode(_numbered(batch), bundle_of(arrays, visibility))


def _numbered(batch: Arrays) -> Arrays:
    """The batch, whose row n has prompt n."""
    rows = len(batch["encoder_input_tokens"])
    return {**batch, "prompt_ids": jnp.arange(rows, dtype=jnp.int32)}


def prefill(graphdef, params, slots: Slots, encoded, batch, arrays: Arrays) -> Slots:
    """`slots` with the rows of the batch in its `slots` int32 [R], before their first token."""
    t5 = nnx.merge(graphdef, params)
    N = slots.rows.ids.shape[1]
    new = cache.of_encoded(t5, encoded, _numbered(batch), bundle_of(arrays), columns=N)
    keys = jax.vmap(_key)(batch["seeds"])
    empty = ~jnp.any(encoder_segments(batch) > 0, axis=1)
    rows = decode.start_rows(new, empty, batch["limits"], keys, N)

    def put(old, new, axis=0):
        index = (slice(None),) * axis + (batch["slots"],)
        return old.at[index].set(new, mode="drop")

    return Slots(
        rows=decode.insert(slots.rows, rows, batch["slots"]),
        own={n: put(x, arrays[n], ALL_AXES[n].index("X")) for n, x in slots.own.items()},
        sums=put(slots.sums, jnp.zeros((len(empty), N))),
        temperature=put(slots.temperature, batch["temperature"]),
        top_k=put(slots.top_k, batch["top_k"]),
        top_p=put(slots.top_p, batch["top_p"]),
    )


def _key(seed: jax.Array) -> jax.Array:
    """What `decode.generate` draws the first row of a batch with, given `jax.random.key(seed)`."""
    return decode.row_keys(jax.random.key(seed), jnp.zeros(1, jnp.int32), 1)[0]


def advance(graphdef, params, slots: Slots, stopped, ended, steps):
    """The slots, of which the first B advanced until `ended` of them have ended or for `steps`
    tokens, those in `stopped`, bool [B], ended at once; and their ids and sums [B, N], counts int32
    [B] and whether they have ended, bool [B]."""
    t5, B = nnx.merge(graphdef, params), len(stopped)
    all_slots = slots
    if len(slots.temperature) > B:
        slots = _first(slots, B)
    bundle = bundle_of(slots.own)
    at = dataclasses.replace(slots.rows.cache, prompts=jnp.arange(B, dtype=jnp.int32))
    rows = dataclasses.replace(slots.rows, cache=at, ended=slots.rows.ended | stopped)
    drawing = jnp.any((slots.temperature > 0) & ~rows.ended)
    cuts = (slots.temperature, slots.top_k, slots.top_p)

    def choose(logp, counts, keys):
        draw = partial(decode.drawn_or_likeliest, *cuts)
        return jax.lax.cond(drawing, draw, decode.likeliest, logp, counts, keys)

    def going_on(carry):
        n, rows, _ = carry
        return (n < steps) & (jnp.sum(rows.ended) < ended)

    def go_on(carry):
        n, rows, sums = carry
        after = decode.advance(partial(_step, t5, bundle), choose, rows)
        here = jnp.arange(sums.shape[1])[None] == rows.counts[:, None]
        sums = jnp.where(here & ~rows.ended[:, None], after.logp[:, None], sums)
        return n + 1, after, sums

    _, rows, sums = jax.lax.while_loop(going_on, go_on, (jnp.int32(0), rows, slots.sums))
    results = (rows.ids, sums, rows.counts, rows.ended)
    if slots is not all_slots:
        rows, sums = decode.with_first(all_slots.rows, rows), all_slots.sums.at[:B].set(sums)
    return dataclasses.replace(all_slots, rows=rows, sums=sums), results


def _first(slots: Slots, count: int) -> Slots:
    """The first slots."""
    axes = {name: ALL_AXES[name].index("X") for name in slots.own}
    own = {n: jax.lax.slice_in_dim(x, 0, count, axis=axes[n]) for n, x in slots.own.items()}
    rest = (slots.sums, slots.temperature, slots.top_k, slots.top_p)
    return Slots(decode.first(slots.rows, count), own, *(x[:count] for x in rest))


def _step(t5, bundle, tokens, rows):
    return cache.step(t5, rows, tokens, bundle)


def score(graphdef, params, encoded, batch, arrays: Arrays) -> jax.Array:
    """float32 [R, C]: the log-likelihood of each of the `choices` int32 [R, C, N] of the batch."""
    t5, choices = nnx.merge(graphdef, params), batch["choices"]
    return decode.score_encoded(t5, encoded, _numbered(batch), bundle_of(arrays), choices)


@lru_cache
def programs(mesh: Mesh, names: tuple[str, ...]) -> Programs:
    """Made once for every mesh and set of arrays, so that engines share what was compiled."""
    rows, row, layered = decode.places(mesh)
    own = {n: layered if ALL_AXES[n].index("X") else row for n in names if stays(n)}
    places = Slots(rows, own, row, row, row, row)
    return Programs(
        jax.jit(make_slots, static_argnums=(0, 1, 2), out_shardings=places),
        jax.jit(made_rows, static_argnums=(0, 1), out_shardings=row, donate_argnums=5),
        jax.jit(encode, static_argnums=(0, 1), out_shardings=row),
        jax.jit(prefill, static_argnums=0, out_shardings=places, donate_argnums=2),
        jax.jit(advance, static_argnums=0, out_shardings=(places, row), donate_argnums=2),
        jax.jit(score, static_argnums=0, out_shardings=row),
        jax.jit(decode.mean_of_text, out_shardings=row),
    )


def placed(arrays: Mapping[str, Any], mesh: Mesh) -> Arrays:
    """Arrays of a batch on the mesh, their axis X over its data and fsdp axes."""
    split = ("data", "fsdp")
    spec = {n: PartitionSpec(*[None] * ALL_AXES[n].index("X"), split) for n in arrays}
    return {n: jax.device_put(x, NamedSharding(mesh, spec[n])) for n, x in arrays.items()}
