"""Continuous batching: requests that come and go at different times against each alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from flax import nnx

from prompt_jax.answer import engine
from prompt_jax.answer.answerer import Answerer, Answering
from prompt_jax.answer.engine import Engine, Request, Rule
from prompt_jax.answer.question import Question, features
from prompt_jax.backbone import weights
from prompt_jax.backbone.load import load_backbone
from prompt_jax.errors import UserError
from prompt_jax.evaluate.prompts import model_of
from prompt_jax.methods.base import FixedPrompt
from prompt_jax.model import decode, sharding, t5
from prompt_jax.model.bundle import NO_PROMPT, PromptBundle
from prompt_jax.model.decode import Sampling
from prompt_jax.model.sharding import MeshShape
from prompt_jax.prompt.layout import PromptLayout

# So few tokens that EOS often is the likeliest.
TINY = t5.T5Config(9, 16, 2, 8, 24, 2, 2, num_buckets=8, max_distance=12, dtype="float32")
MESHES = {n: MeshShape(data=n).build(jax.devices()[:n]) for n in (1, 2)}
N, WIDTHS = 10, (4, 8)
rng = np.random.default_rng(4)  # one of those that give outputs of many lengths
PROMPTS = {"encoder": rng.normal(0, 0.5, (2, 3, 16)), "decoder": rng.normal(0, 0.5, (2, 2, 16))}
BUNDLES = {
    "bare": (NO_PROMPT, PromptLayout()),
    "two prompts": (
        PromptBundle(**{k: jnp.asarray(v, jnp.float32) for k, v in PROMPTS.items()}),
        PromptLayout(encoder=3, decoder=2),
    ),
}


class Model(nnx.Module):
    """A T5 with the arrays of a bundle."""

    def __init__(self, t5, bundle):
        self.t5, self.arrays = t5, nnx.data(bundle)

    def bundle(self, batch=None):
        return self.arrays


def model(bundle, devices=1):
    rng = np.random.default_rng(3)
    arrays = {k: rng.normal(0, s[0] ** -0.5, s) for k, s in weights.t5x_shapes(TINY).items()}
    graphdef, state = nnx.split(Model(weights.build(TINY, arrays), bundle))
    return graphdef, nnx.State({}), jax.device_put(state, sharding.replicated(MESHES[devices]))


def requests():
    """Twelve inputs of 1 to 8 tokens, of two prompts, that may have 4 or N tokens of output."""
    rng = np.random.default_rng(1)
    found = []
    for n in range(12):
        ids = np.append(rng.integers(2, 9, rng.integers(0, 8)), 1).astype(np.int32)
        limit = N if n % 3 else 4
        found.append(Request(n, Question(ids, n % 2, seed=n), limit))
    return found


def one_by_one(model, layout, request, rule):
    """Its ids and score by `decode.generate`, alone in a batch of one."""
    merged = nnx.merge(model[0], model[1], model[2])
    batch = features([request.question], [layout], 1, WIDTHS[-1])
    ids, scores = _generate(merged, batch, request.max_length, rule)
    return np.trim_zeros(np.asarray(ids[0, 0]), "b"), float(scores[0, 0])


@jax.jit(static_argnums=(2, 3))
def _generate(model, batch, max_length, rule):
    return decode.generate(
        model.t5,
        batch,
        model.bundle(),
        max_length=max_length,
        alpha=rule.alpha,
        sampling=rule.sampling,
        key=jax.random.key(rule.seed),
    )


@pytest.mark.parametrize(
    ("name", "devices", "rule"),
    [
        ("bare", 1, Rule()),
        pytest.param("two prompts", 1, Rule(), marks=pytest.mark.slow),
        pytest.param("two prompts", 2, Rule(), marks=pytest.mark.slow),
        ("two prompts", 1, Rule(Sampling(temperature=1.2, top_k=6), seed=4)),
    ],
)
def test_requests_that_arrive_at_any_time_decode_as_if_alone(name, devices, rule):
    bundle, layout = BUNDLES[name]
    asked, whole = requests(), model(bundle, devices)
    slots = Engine(
        whole, [layout], MESHES[devices], slots=4, widths=WIDTHS, max_length=N, rule=rule
    )
    found, arriving = {}, list(asked)
    while arriving or slots.busy:
        for request in arriving[:2]:
            slots.submit(request)
        del arriving[:2]
        for output in slots.turn(steps=3):
            found[output.number] = output
    assert len({len(output.ids) for output in found.values()}) >= 3, "the lengths differ"
    assert any(1 in output.ids for output in found.values())
    for request in asked:
        ids, score = one_by_one(whole, layout, request, rule)
        output = found[request.number]
        np.testing.assert_array_equal(np.trim_zeros(output.ids, "b"), ids)
        assert output.score == pytest.approx(score, abs=1e-5)


def test_a_shape_is_compiled_once():
    """One program for each width, one that advances, one that makes the slots."""
    bundle, layout = BUNDLES["two prompts"]
    whole = model(bundle)

    def answer():
        slots = Engine(whole, [layout], MESHES[1], slots=8, widths=WIDTHS, max_length=N - 1)
        for request in requests():
            slots.submit(request._replace(max_length=min(request.max_length, N - 1)))
        while slots.busy:
            slots.turn()

    with compilations() as names:
        answer()
    engines = sorted(name for name in names if name in ("make_slots", "prefill", "advance"))
    assert engines == ["advance", "make_slots", "prefill", "prefill"]
    with compilations() as names:
        answer()
    assert names == []


def test_the_bytes_of_the_cache_are_known_before():
    bundle, layout = BUNDLES["two prompts"]
    slots = Engine(model(bundle), [layout], MESHES[1], slots=5, widths=WIDTHS, max_length=N)
    there = sum(x.nbytes for x in jax.tree.leaves(slots.rows.cache))
    assert there == engine.cache_bytes(TINY, layout, 5, WIDTHS[-1], N)


@pytest.mark.parametrize(
    ("length", "limit", "message"),
    [(9, 3, "request 7: has 9 tokens of input, at most 8 fit"), (2, 99, "give 1 to 10")],
)
def test_a_request_that_does_not_fit_is_refused(length, limit, message):
    slots = Engine(
        model(NO_PROMPT), [PromptLayout()], MESHES[1], slots=2, widths=WIDTHS, max_length=N
    )
    with pytest.raises(UserError, match=message):
        slots.submit(Request(7, Question(np.ones(length, np.int32)), limit))
    assert not slots.busy


def test_the_answerer_answers_the_same_continuously(tiny):
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    texts = ("one", "a much longer question", "two", "three and more", "x", "", "and one more")
    questions = [
        Question(np.asarray([*backbone.vocabulary.encode(text), 1], np.int32), group=n // 4, seed=n)
        for n, text in enumerate(texts)
    ]
    how = Answering(sampling=Sampling(), seed=3)
    said = []
    for continuous in (False, True):
        answerer = Answerer(
            backbone.vocabulary,
            PromptLayout(),
            MESHES[1],
            (32, 6),
            2,
            dataclasses.replace(how, continuous=continuous),
        )
        whole = model_of(backbone, FixedPrompt(), MESHES[1])
        order = [row for rows, _ in answerer.stream(whole, questions) for row in rows]
        assert [questions[row].group for row in order] == [0] * 4 + [1] * 3
        said.append(answerer(whole, questions))
    assert [a.text for a in said[0]] == [a.text for a in said[1]]
    for one, other in zip(*said, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
    assert dataclasses.replace(how, continuous=True).record() == how.record()


@pytest.mark.parametrize("wrong", [{"mode": "rank"}, {"beams": 2}])
def test_what_cannot_be_continuous_is_refused(wrong):
    with pytest.raises(UserError, match="only the mode 'generate' with one beam has it"):
        Answering(continuous=True, **wrong)
