"""Methods whose parameters fold into a prompt: counts of their papers, and what each begins at."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.backbone.load import load_backbone
from prompt_jax.errors import UserError
from prompt_jax.methods.dept import DePT
from prompt_jax.methods.e2vpt import E2VPT
from prompt_jax.methods.ept import EPT
from prompt_jax.methods.low_rank import LowRankPrompt
from prompt_jax.methods.maple import CoupledPrompt
from prompt_jax.methods.multitask import MultitaskPrompt
from prompt_jax.methods.parts.inits import NameInit, SampledVocabInit, UniformInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.methods.scaled import ScaledPrompt
from prompt_jax.methods.x_gen import XGen
from prompt_jax.model.bundle import PromptBundle
from prompt_jax.model.columns import offset_text, places_of
from prompt_jax.model.sizes import SIZES

BASE, LARGE = SIZES["t5_1_1_base"], SIZES["t5_1_1_large"]
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def start(tiny: Path) -> Start:
    return Start(load_backbone(f"files:{tiny}/backbone", "float32"))


def rows_of(bundle: PromptBundle) -> np.ndarray:
    """float32 [P, D]: the encoder's rows of the one prompt."""
    assert bundle.encoder is not None
    return np.asarray(bundle.encoder[0])


@pytest.mark.parametrize(
    ("length", "rank", "pieces", "count"),
    [
        (60, 30, 256, 76_800),
        (40, 45, 256, 76_800),
        (80, 15, 256, 76_800),
        (60, 24, 512, 76_800),
        (60, 30, 348, 79_560),
    ],
)
def test_dept_trains_as_many_numbers_as_its_released_checkpoints(length, rank, pieces, count):
    assert DePT(length=length, rank=rank, max_length=pieces).count(BASE) == count


def test_low_rank_prompts_train_as_many_numbers_as_the_papers_say():
    assert (LowRankPrompt().count(BASE), LowRankPrompt().count(LARGE)) == (8_680, 11_240)
    mapped = LowRankPrompt(length=20, rank=5, form="mapped", init=SampledVocabInit())
    assert mapped.count(BASE) == 2 * 5 * 768


def test_mpt_trains_as_many_numbers_as_the_paper_says_and_begins_at_the_shared_rows(start):
    assert MultitaskPrompt(tasks=("a",), combine="hadamard").count(BASE) == 77_668
    tasks: dict[str, Any] = {"tasks": ("a", "b"), "length": 3, "init": UniformInit()}
    module = MultitaskPrompt(**tasks, combine="hadamard").create(KEY, start)
    shared = np.asarray(module.shared[...])
    np.testing.assert_array_equal(rows_of(module()), np.concatenate([shared, shared]))
    u, v = np.arange(3.0), np.arange(16.0)
    module.own[...] = module.own[...].at[1].set(np.concatenate([u, v]))
    np.testing.assert_allclose(rows_of(module())[3:], shared * np.outer(u, v), rtol=1e-6)


def test_a_place_is_counted_in_the_text_of_its_own_example():
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
    slots = jnp.array([[1, 2, 0, 0, 0, 0, 1, 0, 0, 0]])  # before the text, and within it
    places = places_of(segments, slots)
    assert places.tolist() == [[-1, -1, 0, 1, 0, 1, -1, 2, -1, -1]]
    offsets = jnp.arange(1.0, 5.0).reshape(2, 2, 1)  # of two prompts, for two places
    ids = jnp.where(segments == 2, 1, 0)
    moved = offset_text(jnp.zeros((1, 10, 1)), offsets, places, ids)[0, :, 0]
    assert moved.tolist() == [0, 0, 1, 2, 3, 4, 0, 0, 0, 0]


@pytest.mark.parametrize("method", [DePT(length=3, max_length=6), EPT(length=3, max_length=6)])
def test_an_offset_begins_at_nothing_and_the_rows_at_their_init(method, start):
    bundle = method.create(KEY, start)()
    assert not bundle.encoder_offset.any()
    keys = jax.random.split(KEY, 2 if isinstance(method, DePT) else 4)
    np.testing.assert_allclose(
        rows_of(bundle), start.one(method.init, keys[0], 3), rtol=1e-5, atol=1e-6
    )


def test_a_product_begins_at_the_best_that_its_rank_can_keep(start):
    rows = start.one(UniformInit(), jax.random.split(KEY)[0], 6)
    u, s, v = np.linalg.svd(rows)
    best = (u[:, :2] * s[:2]) @ v[:2]
    made = LowRankPrompt(length=6, rank=2, init=UniformInit()).create(KEY, start)()
    np.testing.assert_allclose(rows_of(made), best, atol=1e-5)
    fixed = LowRankPrompt(length=6, rank=6, form="mapped", init=UniformInit()).create(KEY, start)()
    np.testing.assert_allclose(rows_of(fixed), rows, atol=1e-2)  # six of six can keep all


def test_a_rank_above_the_models_width_is_refused(start):
    method = LowRankPrompt(length=40, rank=30)
    with pytest.raises(UserError, match="rank = 30: the model is 16 wide; give 1 to 16"):
        method.create(KEY, start)


def test_a_scale_multiplies_what_it_says(start):
    factors: dict[Any, Any] = {"all": 2.0, "rows": [[1.0], [2], [3]], "columns": [range(16)]}
    for scale, factor in factors.items():
        module = ScaledPrompt(length=3, scale=scale, init=UniformInit()).create(KEY, start)
        rows = rows_of(module())
        module.scale[...] = module.scale[...] * jnp.asarray(factor, jnp.float32)
        np.testing.assert_allclose(rows_of(module()), rows * np.asarray(factor), rtol=1e-6)


def test_the_decoders_rows_of_a_layer_are_a_map_of_the_encoders(start):
    module: Any = CoupledPrompt(length=2, rank=3).create(KEY, start)
    bundle = module()
    assert bundle.encoder_layers.rows is not None and bundle.decoder_layers.rows is not None
    for layer in range(start.config.num_decoder_layers):
        rows = np.asarray(module.rows[...][layer])
        wanted = rows @ np.asarray(module.down[...][layer]) @ np.asarray(module.up[...][layer])
        np.testing.assert_allclose(bundle.decoder_layers.rows[layer, 0], wanted, rtol=1e-5)


def test_the_keys_of_e2vpt_are_its_values(start):
    assert E2VPT(length=10, keys=5).count(BASE) == 12 * 10 * 768 + 12 * 5 * 768
    bundle = E2VPT(length=3, keys=2, attentions=("cross",)).create(KEY, start)()
    cross, layers = bundle.decoder_layers.cross, bundle.encoder_layers
    assert cross.keys is not None and bundle.encoder is not None and layers.rows is not None
    np.testing.assert_array_equal(cross.keys, cross.values)
    np.testing.assert_array_equal(bundle.encoder, layers.rows[0])
    assert layers.attention.keys is None


def test_rows_begin_at_the_names_of_their_tasks_and_languages(start):
    init = NameInit(words={"de": "ab"})
    method = XGen(
        languages=("de", "en"), tasks=("b_c",), language_length=1, task_length=1, init=init
    )
    table = rows_of(method.create(KEY, start)())
    for row, words in zip(table, ("ab", "en", "b c"), strict=True):
        ids = start.vocabulary.encode(words)
        np.testing.assert_allclose(row, start.embedding[ids].mean(axis=0), rtol=1e-6)
    with pytest.raises(UserError, match="NameInit: these rows have no name; give it to a method"):
        start.one(NameInit(), KEY, 1)
