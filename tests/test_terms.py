"""Terms share their passes, rules see each part's gradient, projections follow the optimizer."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from prompt_jax.backbone.load import load_backbone
from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.data.source import Data
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptedT5, PromptParam
from prompt_jax.methods.context import ContextPrompt
from prompt_jax.methods.full import FullTuning
from prompt_jax.methods.parts.inits import UniformInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.methods.soft import SoftPrompt, SoftPromptModule
from prompt_jax.model.t5 import T5
from prompt_jax.objective import terms
from prompt_jax.objective.forwards import BARE, Passes, seat
from prompt_jax.objective.frozen_kl import FrozenKL
from prompt_jax.objective.homeostasis import Homeostasis
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.norm_ball import NormBall
from prompt_jax.objective.optim import Adafactor, Schedule
from prompt_jax.objective.prograd import ProGrad
from prompt_jax.objective.terms import minimised
from prompt_jax.objective.wayward import Wayward
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.run.job import Run
from prompt_jax.run.settings import Train
from prompt_jax.run.step import accumulated, make_grad, make_grads, normalised, split

LAYOUT = PromptLayout(encoder=4)
TEXT = "text"


class Small:
    """A tiny model with a prompt of four rows, and a packed batch."""

    def __init__(self, folder: Path):
        self.backbone = load_backbone(f"files:{folder}/backbone", "float32")
        rows = np.asarray(jax.random.normal(jax.random.key(1), (4, 16)))
        model = PromptedT5(self.backbone.model, SoftPromptModule(rows))
        self.graphdef, self.trainable, self.frozen = split(model, PromptParam)
        self.model, self.rows = model, rows
        data = Data(
            task=str(folder / "toy.train.jsonl"), input_length=28, target_length=4, batch_size=4
        )
        self.data, text = data, data.read()
        self.batch = text.open(self.backbone.vocabulary, LAYOUT, seed=0).batch(0)
        self.bare = text.open(self.backbone.vocabulary, PromptLayout(), seed=0)

    def objective(self, *wanted, apart=False, pieces=1):
        return minimised(Loss(), wanted, apart, self.backbone.vocabulary, LAYOUT, pieces)

    def gradient(self, objective, step=0):
        grad = jax.jit(make_grad(self.graphdef, objective))
        grads, sums = grad(self.trainable, self.frozen, self.batch, None, step)
        return np.asarray(grads.prompt.encoder[...]), sums


@pytest.fixture(scope="module")
def small(tiny) -> Small:
    return Small(tiny)


def test_a_run_without_terms_minimises_the_loss_itself():
    loss = Loss()
    assert minimised(loss, (), False, None, LAYOUT) is loss


def test_wayward_is_the_mean_squared_distance_added_once(small):
    wanted = small.backbone.model.embed(np.asarray(small.backbone.vocabulary.encode(TEXT)))
    away = small.rows - np.asarray(wanted)
    plain, _ = small.gradient(Loss())
    held, sums = small.gradient(small.objective(Wayward(text=TEXT, weight=0.5)))
    tokens = float(sums["tokens"])
    np.testing.assert_allclose(
        float(sums["term/Wayward"]) / tokens, (away**2).sum(axis=1).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(held - plain, 0.5 * 2 * away / 4, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_weight_may_be_a_schedule_of_the_step(small):
    falling = Schedule(learning_rate=0.5, decay="linear", total_steps=10)
    objective = small.objective(Wayward(text=TEXT, weight=falling))
    plain, _ = small.gradient(Loss())
    first, half, last = (small.gradient(objective, step)[0] - plain for step in (0, 5, 10))
    np.testing.assert_allclose(half, first / 2, rtol=1e-3, atol=1e-2)
    assert np.abs(last).max() <= 1e-4 * np.abs(first).max()


class Count(terms.LossTerm):
    """A term that only needs what others need."""

    weight = 1.0
    forwards = (BARE,)

    def open(self, vocabulary, layout):
        return lambda passes, batch: jnp.mean(passes[BARE].logits) * 0.0


def test_every_pass_is_made_once_whoever_asks_and_no_other(small, monkeypatch):
    calls = []
    for name in ("encode", "decode", "logits"):
        make = vars(T5)[name]
        monkeypatch.setattr(T5, name, lambda *args, n=name, m=make: calls.append(n) or m(*args))
    small.gradient(small.objective(FrozenKL(), Count()))
    assert sorted(calls) == ["decode"] * 2 + ["encode"] * 2 + ["logits"] * 2
    calls.clear()
    small.gradient(small.objective(Wayward(text=TEXT)))
    assert calls == ["encode", "decode", "logits"]


def test_the_frozen_pass_is_the_model_without_its_prompt(small):
    def bare(model, batch):
        return Passes(model, batch, None, LAYOUT)[BARE].logits

    told = np.asarray(jax.jit(bare)(small.model, small.batch))
    forward = jax.jit(lambda t5, batch: t5(batch))
    rows = small.bare.tasks[0]
    for b in range(2):
        segments = small.batch["decoder_segment_ids"][b]
        ids = small.batch["encoder_input_tokens"][b][small.batch["encoder_segment_ids"][b] == 1][4:]
        (number,) = [i for i, x in enumerate(rows.inputs) if list(x) == list(ids)]
        alone = {
            "encoder_input_tokens": rows.inputs[number][None],
            "decoder_target_tokens": rows.targets[number][None],
            "decoder_input_tokens": np.r_[0, rows.targets[number][:-1]][None],
        }
        logits = np.asarray(forward(small.model.t5, alone))[0]
        np.testing.assert_allclose(told[b][segments == 1], logits, rtol=1e-4, atol=1e-4)


LAYOUTS = (
    PromptLayout(encoder=4),
    PromptLayout(encoder=3, placement="before_eos", decoder=3),
    PromptLayout(encoder=2, placement="suffix", decoder=1),
    PromptLayout(encoder=1, placement="after_bos"),
    PromptLayout(),
)


@pytest.mark.parametrize("old", [pytest.param(LAYOUTS[0], marks=pytest.mark.slow), LAYOUTS[1]])
def test_a_batch_is_seated_as_another_layout_lays_it_out(small, old):
    data = dataclasses.replace(small.data, packed=False)
    text = data.read()

    def batch(layout):
        return text.open(small.backbone.vocabulary, layout, seed=0).batch(0)

    for new in LAYOUTS:
        seated = seat({k: jnp.asarray(v) for k, v in batch(old).items()}, old, new)
        for name, wanted in batch(new).items():
            np.testing.assert_array_equal(seated[name], wanted, err_msg=f"{new} {name}")


def test_parts_have_gradients_that_add_up(small):
    wanted = (Wayward(text=TEXT), FrozenKL(weight=0.3))
    whole, sums = small.gradient(small.objective(*wanted))
    grads = make_grads(small.graphdef, small.objective(*wanted, apart=True))
    args = (small.trainable, small.frozen, small.batch, None)
    parts, apart = jax.jit(grads)(*args)
    assert set(parts) == {"Loss", "Wayward", "FrozenKL"}
    added = sum(np.asarray(g.prompt.encoder[...]) for g in parts.values())
    np.testing.assert_allclose(added, whole, rtol=1e-4, atol=1e-4)
    assert {k: float(v) for k, v in apart.items()} == pytest.approx(
        {k: float(v) for k, v in sums.items()}, rel=1e-5
    )
    split_in_two = make_grads(small.graphdef, small.objective(*wanted, apart=True, pieces=2))
    halves, _ = jax.jit(accumulated(split_in_two, 2))(*args)
    for name, g in halves.items():
        a, b = (np.asarray(x.prompt.encoder[...]) for x in (g, parts[name]))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize(
    ("factor", "pieces"),
    [
        ("NUM_REAL_TARGET_TOKENS", 2),
        pytest.param("NUM_REAL_TARGET_TOKENS", 1, marks=pytest.mark.slow),
        pytest.param("AVERAGE_PER_SEQUENCE", 1, marks=pytest.mark.slow),
        pytest.param("AVERAGE_PER_SEQUENCE", 2, marks=pytest.mark.slow),
    ],
)
def test_a_term_is_added_to_a_mean_as_it_is(small, factor, pieces):
    """loss + weight * term, of which the term of parameters is known exactly."""
    loss = Loss(loss_normalizing_factor=factor)

    def gradient(*wanted):
        objective = minimised(loss, wanted, False, small.backbone.vocabulary, LAYOUT, pieces)
        grad = normalised(accumulated(make_grad(small.graphdef, objective), pieces), loss.count)
        grads, _ = jax.jit(grad)(small.trainable, small.frozen, small.batch, None)
        return np.asarray(grads.prompt.encoder[...])

    words = small.backbone.model.embed(np.asarray(small.backbone.vocabulary.encode(TEXT)))
    plain, added = gradient(), gradient(Wayward(text=TEXT, weight=0.5))
    wanted = 0.5 * 2 * (small.rows - np.asarray(words)) / 4
    np.testing.assert_allclose(added - plain, wanted, rtol=1e-4, atol=1e-5)


def test_prograd_takes_out_what_opposes():
    rule = ProGrad()
    against = {"Loss": [jnp.array([1.0, -2.0])], "FrozenKL": [jnp.array([0.0, 5.0])]}
    assert rule.of(against)[0].tolist() == [1.0, 0.0]
    along = {"Loss": [jnp.array([1.0, 2.0])], "FrozenKL": [jnp.array([0.0, 5.0])]}
    assert rule.of(along)[0].tolist() == [1.0, 2.0]
    nothing = {"Loss": [jnp.array([1.0, 2.0])], "FrozenKL": [jnp.zeros(2)]}
    assert rule.of(nothing)[0].tolist() == [1.0, 2.0]
    more = {**against, "Wayward": [jnp.array([10.0, 10.0])]}
    assert ProGrad(strength=0.5).of(more)[0].tolist() == [11.0, 9.0]
    gradient, _ = rule.build().update(None, (), None, parts=against, key=None, step=0)
    assert gradient[0].tolist() == [1.0, 0.0]


def test_homeostasis_pulls_by_what_mattered_before():
    """Against the formula, step by step: F of the steps before, corrected for its start."""
    rule = Homeostasis(strength=0.5, decay=0.9).build()
    params, start = jnp.array([1.0, 2.0]), np.array([1.0, 2.0])
    state, mean = rule.init(params), np.zeros(2)
    for step, gradient in enumerate(np.array([[1.0, 0.0], [3.0, 0.0], [0.5, 2.0]])):
        found, state = rule.update(
            jnp.asarray(gradient), state, params, parts={}, key=None, step=jnp.int32(step)
        )
        known = mean / (1 - 0.9**step) if step else mean
        wanted = gradient + 0.5 * known * (np.asarray(params) - start)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        mean = 0.9 * mean + 0.1 * gradient**2
        params = params - 0.1 * found


def run_of(tiny: Path, **changes) -> Train:
    data = Data(task=str(tiny / "toy.train.jsonl"), input_length=28, target_length=4, batch_size=4)
    run = Train(
        backbone=BackboneSettings(name=f"files:{tiny}/backbone", dtype="float32"),
        method=SoftPrompt(length=4, init=UniformInit()),
        data=data,
        optimizer=Adafactor(schedule=Schedule(learning_rate=0.3)),
        steps=3,
    )
    return dataclasses.replace(run, **changes)


def test_a_run_projects_after_the_optimizer_and_compiles_once(tiny, tmp_path):
    run = run_of(
        tiny,
        method=ContextPrompt(text=TEXT, length=4),
        terms=(FrozenKL(),),
        grad_rule=ProGrad(),
        post_update=NormBall(radius=0.2),
    )
    job = Run(run, epath.Path(tmp_path), jax.devices()[:1])
    state = job.first_state()
    for step in range(3):
        state, metrics = job.train_step(state, job.frozen, job.batch(step)[0])
    norms = np.linalg.norm(np.asarray(state.trainable.prompt.delta[...]), axis=1)
    np.testing.assert_allclose(norms, 0.2, rtol=1e-5)
    assert np.isfinite(float(metrics["term/FrozenKL"]))
    assert job.train_step._cache_size() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grad_rule": ProGrad()}, "Train.grad_rule = 'ProGrad': add @FrozenKL"),
        ({"terms": (FrozenKL(), FrozenKL())}, "FrozenKL is given twice"),
        ({"terms": (FrozenKL(),), "method": FullTuning()}, "needs a frozen model"),
        (
            {"terms": (FrozenKL(),), "method": SoftPrompt(length=4, placement="before_eos")},
            "the placement 'before_eos' would leave a gap",
        ),
    ],
)
def test_what_cannot_be_is_said_before_any_weight_is_read(tiny, changes, message):
    with pytest.raises(UserError, match=message):
        run_of(tiny, **changes)


def test_texts_and_prompts_must_have_one_length(small):
    with pytest.raises(UserError, match=r"Wayward\.text: has 3 pieces, the prompt 4 encoder rows"):
        small.objective(Wayward(text="abc"))
    with pytest.raises(
        UserError, match=r"ContextPrompt\.text: has 3 pieces.*set PROMPT_LENGTH to 3"
    ):
        ContextPrompt(text="abc", length=4).create(jax.random.key(0), Start(small.backbone))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrozenKL(temperature=0), "FrozenKL.temperature = 0.0"),
        (lambda: NormBall(radius=-1), "NormBall.radius = -1.0"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(UserError, match=message):
        make()
