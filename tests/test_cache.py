"""The decoding cache: rows of different lengths in one cache against each row alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.backbone import weights
from prompt_jax.model import cache, t5
from prompt_jax.model.bundle import NO_PROMPT, bundle_of

TINY = t5.T5Config(50, 16, 2, 8, 24, 2, 2, num_buckets=8, max_distance=12, dtype="float32")
COLUMNS = 5
# The inputs of three requests, the prompt of each, and the step at which it arrives.
REQUESTS = (([7, 8, 9, 1], 1, 0), ([5, 1], 0, 2), ([3, 4, 6, 7, 8, 9, 2, 1], 1, 3))


def random_t5(**changes):
    config = dataclasses.replace(TINY, **changes)
    rng = np.random.default_rng(3)
    shapes = weights.t5x_shapes(config)
    return weights.build(config, {k: rng.normal(0, s[0] ** -0.5, s) for k, s in shapes.items()})


def edited(positions):
    """Prefixes in both attentions, a LoRA and (IA)3, and a decoder prompt for each of two."""
    shapes = {
        "attention/keys": (2, 3, 16),
        "attention/values": (2, 3, 16),
        "cross/keys": (2, 2, 16),
        "cross/values": (2, 2, 16),
        "attention/query/a": (2, 16, 2),
        "attention/query/b": (2, 2, 16),
        "cross/value/output_scale": (2, 16),
        "wo/input_scale": (2, 24),
    }
    rng = np.random.default_rng(5)
    arrays = {f"decoder_layers/{n}": rng.normal(size=s) for n, s in shapes.items()}
    arrays = {n: jnp.asarray(x, jnp.float32) for n, x in arrays.items()}
    bundle = bundle_of(arrays, prefix_positions=positions)
    return bundle.replace(decoder=jnp.asarray(rng.normal(size=(2, 3, 16)), jnp.float32))


def features(tokens, prompt, width):
    row = np.zeros((1, width), np.int32)
    row[0, : len(tokens)] = tokens
    return {"encoder_input_tokens": row, "prompt_ids": np.array([prompt])}


@pytest.mark.parametrize("kind", ["plain", "per layer", "edited", "edited before"])
def test_rows_that_arrive_later_step_as_if_alone(kind):
    """Three rows in the slots of one cache, narrower than it; what they read is their own."""
    model = random_t5(relpos_per_layer=kind == "per layer")
    positions = "before" if kind == "edited before" else "none"
    bundle = edited(positions) if "edited" in kind else NO_PROMPT
    prefill = jax.jit(cache.prefill, static_argnames="columns")
    step, insert = jax.jit(cache.step), jax.jit(cache.insert)
    reads = np.random.default_rng(0).integers(2, 50, (3, COLUMNS))
    rows, alone = [], []
    for (tokens, prompt, _), read in zip(REQUESTS, reads, strict=True):
        row = prefill(model, features(tokens, prompt, 8), bundle, columns=COLUMNS)
        rows.append(row)
        logps = []
        for token in read:
            logp, row = step(model, row, jnp.array([token]), bundle)
            logps.append(logp[0])
        alone.append(np.stack(logps))
    length = 0 if bundle.decoder is None else 3
    # What was in the slots before must not show.
    resident = cache.empty(model.config, 4, 11, length + COLUMNS + 2)
    noise = jax.tree.map(lambda x: x + 9, (resident.attention, resident.cross))
    resident = resident.replace(attention=noise[0], cross=noise[1])
    slots, found = (2, 0, 3), [[], [], []]
    for t in range(COLUMNS + 3):
        for n, (_, _, arrival) in enumerate(REQUESTS):
            if t == arrival:
                resident = insert(resident, rows[n], jnp.array([slots[n]]))
        tokens = np.full(4, 3)
        for n, (_, _, arrival) in enumerate(REQUESTS):
            if arrival <= t < arrival + COLUMNS:
                tokens[slots[n]] = reads[n][t - arrival]
        logp, resident = step(model, resident, jnp.asarray(tokens), bundle)
        for n, (_, _, arrival) in enumerate(REQUESTS):
            if arrival <= t < arrival + COLUMNS:
                found[n].append(logp[slots[n]])
    for n in range(3):
        np.testing.assert_allclose(np.stack(found[n]), alone[n], atol=1e-5)
    assert resident.lengths[jnp.array(slots)].tolist() == [
        min(length + COLUMNS + 3 - arrival, length + COLUMNS + 2) for _, _, arrival in REQUESTS
    ]
    assert resident.prompts[jnp.array(slots)].tolist() == [1, 0, 1]


def test_a_row_for_no_slot_is_left_out():
    model = random_t5()
    resident = cache.empty(model.config, 2, 8, 4)
    rows = cache.prefill(model, features([7, 8, 1], 0, 4), columns=3)
    same = cache.insert(resident, rows, jnp.array([2]))
    for old, new in zip(jax.tree.leaves(resident), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(old, new)
    changed = cache.insert(resident, rows, jnp.array([1]))
    assert changed.encoder_mask.sum(axis=1).tolist() == [0, 3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bytes_of_a_cache_are_known_before(dtype):
    config = dataclasses.replace(TINY, dtype=dtype)
    wanted = sum(x.nbytes for x in jax.tree.leaves(cache.empty(config, 3, 7, 5)))
    assert cache.cache_bytes(config, 3, 7, 5) == wanted
    assert wanted > 2 * 2 * 3 * (7 + 5) * 16 * jnp.dtype(dtype).itemsize
