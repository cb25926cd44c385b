"""Prompts that each example mixes for itself: against NumPy, padded, packed and as an artefact."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.errors import UserError
from prompt_jax.methods.attempt import Attempt, Mixing
from prompt_jax.methods.base import Context, PromptedT5, Text, positions_of
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.model.bundle import NO_PROMPT
from prompt_jax.model.columns import insert_rows
from prompt_jax.model.sizes import SIZES
from prompt_jax.model.t5 import T5Config

K, P, D, R = 2, 3, 8, 4
RNG = np.random.default_rng(0)
SOURCES = RNG.normal(size=(K, P, D))
NETWORK = {
    "down": RNG.normal(size=(D, R)),
    "up": RNG.normal(size=(R, D)),
    "scale": RNG.normal(size=D),
    "bias": RNG.normal(size=D),
}
OWN = RNG.normal(size=(P, D))
TEXTS = [RNG.normal(size=(n, D)) for n in (4, 2)]


def by_hand(text: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """ATTEMPT's equations for one example, float64."""
    prompts = np.concatenate([SOURCES, OWN[None]])
    hidden = text.max(axis=0) @ NETWORK["down"]
    hidden = hidden / (1 + np.exp(-hidden)) @ NETWORK["up"]
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    scores = prompts.max(axis=1) @ (hidden * NETWORK["scale"] + NETWORK["bias"]) / temperature
    weights = np.exp(scores) / np.exp(scores).sum()
    return OWN + np.einsum("k,kpd->pd", weights, prompts)


def row(texts: list[np.ndarray], columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [T, D], segments and slots [T] of a row: prompt before each text, then large padding."""
    x = np.full((columns, D), 9.0, np.float32)
    segments, slots = np.zeros((2, columns), np.int32)
    at = 0
    for number, text in enumerate(texts, start=1):
        slots[at : at + P] = range(1, P + 1)
        x[at + P : at + P + len(text)] = text
        segments[at : (at := at + P + len(text))] = number
    return x, segments, slots


def mixed(rows, temperature: float = 1.0) -> np.ndarray:
    x, segments, slots = (jnp.asarray(np.stack(parts)) for parts in zip(*rows, strict=True))
    module = Mixing(OWN, SOURCES, NETWORK, temperature)
    bundle = module(Context(text=Text(x, segments, positions_of(segments), slots)))
    return np.asarray(insert_rows(x, bundle.encoder, slots, bundle.encoder_ids))


def test_an_example_mixes_its_prompt_as_the_paper_says():
    """Whatever is beside it, padding or another example, and however far its row goes on."""
    apart = mixed([row([text], 16) for text in TEXTS])
    packed = mixed([row(TEXTS, 16)])[0]
    wide = mixed([row([text], 29) for text in TEXTS])
    for n, (text, start) in enumerate(zip(TEXTS, (0, 7), strict=True)):
        wanted = by_hand(text)
        for found in (apart[n, :P], wide[n, :P], packed[start : start + P]):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(apart[n, P : P + len(text)], text.astype(np.float32))
    assert np.abs(apart[0, :P] - apart[1, :P]).max() > 0.01, "the examples differ"


def test_the_text_of_a_context_says_where_each_column_stands():
    segments = jnp.asarray([[1, 1, 1, 2, 2, 0], [0, 0, 1, 1, 3, 3]])
    wanted = [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 0, 1]]
    assert positions_of(segments).tolist() == wanted
    config = T5Config(64, D, 2, 4, 16, 1, 1, dtype="float32")
    contexts = []

    class Looking(nnx.Module):
        def __call__(self, ctx):
            contexts.append(ctx)
            return NO_PROMPT

    batch = {"encoder_input_tokens": segments + 3, "encoder_segment_ids": segments}
    PromptedT5(weights.init(config, 0), Looking()).bundle(batch)
    text = contexts[0].text
    assert text.positions.tolist() == wanted and text.embeddings.shape == (2, 6, D)
    assert text.segments.tolist() == segments.tolist() and text.slots is None


@pytest.mark.parametrize(("given", "temperature"), [(None, 128 * math.e), (2.0, 2.0)])
def test_scores_are_divided_by_the_temperature(given, temperature):
    """By default D e, as the authors' code."""
    how = Attempt(sources=("a", "b"), length=P, hidden=R, temperature=given)
    assert how.create(jax.random.key(0), Shapes(SIZES["nano"])).temperature == temperature
    found = mixed([row([TEXTS[0]], 16)], temperature)[0, :P]
    np.testing.assert_allclose(found, by_hand(TEXTS[0], temperature), rtol=1e-5, atol=1e-5)


def test_a_row_without_an_example_stays_finite():
    empty = (np.ones((5, D), np.float32), *np.zeros((2, 5), np.int32))
    np.testing.assert_array_equal(mixed([empty])[0], empty[0])


def test_sources_are_needed():
    with pytest.raises(UserError, match=r"Attempt\.sources = \(\): name saved prompts"):
        Attempt()
