"""Prompt tuning as a method: its count, its fold, and what of the model it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import Backbone
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import UserError
from prompt_jax.methods.base import FixedPrompt, PromptedT5, PromptParam
from prompt_jax.methods.parts.inits import ClassLabelInit, UniformInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.methods.soft import SoftPrompt
from prompt_jax.model import sizes, t5
from prompt_jax.model.bundle import Visibility
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.optim import Adafactor, Schedule
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.run.step import TrainState, make_train_step, split

CONFIG = t5.T5Config(300, 8, 2, 4, 16, 1, 1, dropout_rate=0.0, dtype="float32")
METHODS = {
    "encoder": SoftPrompt(length=5),
    "decoder": SoftPrompt(length=0, decoder_length=3),
    "both": SoftPrompt(length=5, decoder_length=3, placement="suffix"),
    "labels": SoftPrompt(length=4, init=ClassLabelInit(), visibility=Visibility(prompt="self")),
}
NAMES = list(METHODS)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=s) / 4 for name, s in weights.t5x_shapes(CONFIG).items()}
    model = weights.build(CONFIG, arrays)
    return Backbone(CONFIG, model, "random:tiny", "0" * 64, Vocabulary.bytes())


def create(name: str, backbone: Backbone, seed: int = 0) -> nnx.Module:
    return METHODS[name].create(jax.random.key(seed), Start(backbone, ("yes", "no")))


@pytest.mark.parametrize("name", NAMES)
def test_the_formula_counts_the_trainable_numbers(backbone, name):
    module = create(name, backbone)
    leaves = jax.tree.leaves(nnx.state(module, PromptParam))
    assert METHODS[name].count(CONFIG) == sum(leaf.size for leaf in leaves) > 0
    assert all(leaf.dtype == np.float32 for leaf in leaves)


def test_the_paper_s_count():
    config = sizes.SIZES["t5_1_1_xxl"]
    assert SoftPrompt(length=5).count(config) == 20_480
    assert SoftPrompt().count(config) == 409_600


@pytest.mark.parametrize("name", NAMES)
def test_the_fold_is_what_the_model_sees(backbone, name):
    method, module = METHODS[name], create(name, backbone)
    folded, bundle = method.fold(module), module()
    for side in ("encoder", "decoder"):
        rows, length = vars(bundle)[side], vars(method.layout)[side]
        if length == 0:
            assert rows is None and side not in folded
            continue
        assert rows.shape == (1, length, CONFIG.emb_dim)
        np.testing.assert_array_equal(folded[side], rows[0])
        assert folded[side].dtype == np.float32
    assert bundle.visibility == method.visibility


@pytest.mark.parametrize("name", NAMES)
def test_only_prompt_leaves_are_trainable(backbone, name):
    module = create(name, backbone)
    model = PromptedT5(backbone.model, module)
    _, trainable, frozen = split(model, METHODS[name].trainable)
    sides = {side for side in ("encoder", "decoder") if vars(METHODS[name].layout)[side]}
    assert {path for path, _ in nnx.to_flat_state(trainable)} == {("prompt", s) for s in sides}
    assert {path[0] for path, _ in nnx.to_flat_state(frozen)} == {"t5"}
    assert len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(nnx.state(backbone.model)))


def test_a_prompt_is_no_param():
    assert not issubclass(PromptParam, nnx.Param)


def test_the_seed_decides_and_the_sides_differ(backbone):
    one, again, other = (METHODS["both"].fold(create("both", backbone, s)) for s in (0, 0, 1))
    for side in one:
        np.testing.assert_array_equal(one[side], again[side])
        assert (one[side] != other[side]).any()
    assert (one["encoder"][:3] != one["decoder"]).any()


def test_rows_begin_as_the_init_says(backbone):
    table = np.asarray(backbone.model.token_embedder.embedding[...])
    ids = Vocabulary.bytes().encode("yes")
    rows = METHODS["labels"].fold(create("labels", backbone))["encoder"]
    np.testing.assert_allclose(rows[0], table[ids].mean(axis=0), rtol=1e-5)
    rows = METHODS["encoder"].fold(create("encoder", backbone))["encoder"]
    assert all((row == table).all(axis=1).any() for row in rows)


def test_the_layout():
    assert METHODS["both"].layout == PromptLayout(encoder=5, placement="suffix", decoder=3)


@pytest.mark.parametrize("lengths", [(0, 0), (-1, 5), (5, -1)])
def test_a_prompt_has_rows(lengths):
    with pytest.raises(UserError, match=r"give (at least one row|0 or more)"):
        SoftPrompt(length=lengths[0], decoder_length=lengths[1])


def batch_for(layout: PromptLayout) -> dict[str, jax.Array]:
    P, S = layout.encoder, layout.decoder
    return {
        "encoder_input_tokens": jnp.array([[*([0] * P), 7, 8, 1], [*([0] * P), 9, 5, 1]]),
        "encoder_prompt_slots": jnp.array([[*range(1, P + 1), 0, 0, 0]] * 2),
        "decoder_input_tokens": jnp.array([[*([0] * S), 0, 5], [*([0] * S), 0, 6]]),
        "decoder_target_tokens": jnp.array([[*([0] * S), 5, 1], [*([0] * S), 6, 1]]),
        "decoder_prompt_slots": jnp.array([[*range(1, S + 1), 0, 0]] * 2),
    }


@pytest.mark.slow
def test_a_step_changes_the_prompt_and_nothing_else(backbone, tmp_path):
    method = SoftPrompt(length=5, decoder_length=3, init=UniformInit())
    module = method.create(jax.random.key(0), Start(backbone))
    graphdef, trainable, frozen = split(PromptedT5(backbone.model, module), method.trainable)
    before = jax.device_get((trainable, frozen))
    tx = Adafactor(schedule=Schedule(learning_rate=0.3)).build()
    state = TrainState(jnp.int32(0), trainable, tx.init(trainable))
    everywhere = jax.tree.map(lambda x: x.sharding, state)
    step = make_train_step(graphdef, Loss(), tx, None, everywhere)
    batch = batch_for(method.layout)
    state, metrics = step(state, frozen, batch)
    for old, new in zip(jax.tree.leaves(before[0]), jax.tree.leaves(state.trainable), strict=True):
        assert (np.abs(old - np.asarray(new)) > 1e-3).all()
    for old, new in zip(jax.tree.leaves(before[1]), jax.tree.leaves(frozen), strict=True):
        np.testing.assert_array_equal(old, new)
    biggest = max(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert biggest == 5 * CONFIG.emb_dim
    assert set(metrics) == {
        "loss",
        "z_loss",
        "accuracy",
        "tokens",
        "grad_norm",
        "update_norm",
        "trainable_norm",
    }
    assert metrics["tokens"] == 4

    # What was trained is what is saved, and the saved prompt gives the trained model's logits.
    model = nnx.merge(graphdef, state.trainable, frozen)
    facts = dict.fromkeys(("tokenizer", "task", "metric", "step", "seed"))
    facts["backbone"] = {"name": backbone.name, "digest": backbone.digest}
    method.save(tmp_path / "p", model, backbone, facts)
    saved = load_prompt(tmp_path / "p")
    assert saved.layout == method.layout
    again = PromptedT5(backbone.model, FixedPrompt(saved.bundle()))
    logits = jax.jit(lambda bundle: backbone.model(batch, bundle))
    np.testing.assert_array_equal(logits(model.bundle(batch)), logits(again.bundle(batch)))
