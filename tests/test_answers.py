"""Answers to questions: ranking, retrieval, sampling, many prompts in one batch, the vote."""

import jax
import numpy as np
import pytest

from prompt_jax.answer.answerer import Answer, Answerer, Answering, Question
from prompt_jax.backbone.load import load_backbone
from prompt_jax.errors import UserError
from prompt_jax.evaluate.prompts import model_of, module_of, vote
from prompt_jax.methods.base import FixedPrompt
from prompt_jax.model import decode, t5
from prompt_jax.model.bundle import NO_PROMPT
from prompt_jax.model.sharding import MeshShape
from prompt_jax.prompt.artefact import Prompt
from prompt_jax.prompt.layout import PromptLayout, lay_out

ONE = MeshShape().build(jax.devices()[:1])


@pytest.fixture(scope="module")
def backbone(tiny):
    return load_backbone(f"files:{tiny}/backbone", "float32")


def ids(backbone, text: str) -> np.ndarray:
    return np.asarray([*backbone.vocabulary.encode(text), 1], np.int32)


def prompts(n: int) -> list[Prompt]:
    rng = np.random.default_rng(0)
    return [
        Prompt({"encoder": rng.normal(size=(3, 16)).astype(np.float32)}, {}, f"p{i}")
        for i in range(n)
    ]


def answerer(backbone, how=Answering(), size=4, rows=0, limit=6) -> Answerer:  # noqa: B008
    layout = PromptLayout(encoder=rows)
    return Answerer(backbone.vocabulary, layout, ONE, (32, limit), size, how)


TEXTS = ("one", "a much longer question", "two", "three and more", "x")


@pytest.mark.parametrize("normalised", [False, True])
def test_choices_are_ranked_by_their_likelihood(backbone, normalised):
    """Rows with their own choices, in batches, against every choice scored by itself."""
    choices = [("a", "bcd"), ("no", "yes", "maybe"), ("a", "bcd"), ("qqqq",), ("a", "bcd")]
    how = Answering(mode="rank", length_normalised=normalised)
    questions = [Question(ids(backbone, t), 0, c) for t, c in zip(TEXTS, choices, strict=True)]
    said = answerer(backbone, how)(model_of(backbone, FixedPrompt(), ONE), questions)
    score = jax.jit(lambda m, batch, c: decode.score(m, batch, NO_PROMPT, c))
    tokens, targets = np.zeros((10, 32), np.int32), np.zeros((10, 1, 6), np.int32)
    pairs = [(t, c) for t, row in zip(TEXTS, choices, strict=True) for c in row]
    for n, (text, choice) in enumerate(pairs):
        tokens[n, : len(text) + 1] = ids(backbone, text)
        targets[n, 0, : len(choice) + 1] = ids(backbone, choice)
    alone = np.asarray(score(backbone.model, {"encoder_input_tokens": tokens}, targets))[:, 0]
    alone = alone / (targets[:, 0] > 0).sum(axis=1) if normalised else alone
    wanted = iter(alone)
    for answer, row in zip(said, choices, strict=True):
        by_choice = {choice: next(wanted) for choice in row}
        assert list(answer.scores) == list(row)
        assert answer.scores == pytest.approx(by_choice, rel=1e-5)
        assert answer.text == max(by_choice, key=by_choice.__getitem__)
        assert answer.score == answer.scores[answer.text]


def test_ranking_encodes_once_and_keeps_a_shape(backbone, monkeypatch):
    encode, shapes = t5.T5.encode, []
    monkeypatch.setattr(
        t5.T5,
        "encode",
        lambda self, batch, *rest: (
            shapes.append(batch["encoder_input_tokens"].shape),
            encode(self, batch, *rest),
        )[1],
    )
    how = Answering(mode="rank", alpha=0.5)  # settings of its own: compiled anew
    questions = [Question(ids(backbone, f"{i}"), 0, ("a", "b", "c", "d")) for i in range(9)]
    answerer(backbone, how)(model_of(backbone, FixedPrompt(), ONE), questions)
    assert shapes == [(4, 32)], "one trace for three batches; rows are not repeated per choice"


def test_a_choice_that_is_too_long_is_named(backbone):
    with pytest.raises(UserError, match="choice 'seventh': has 8 tokens, TARGET_LENGTH is 6"):
        answerer(backbone, Answering(mode="rank"))(
            model_of(backbone, FixedPrompt(), ONE), [Question(ids(backbone, "x"), 0, ("seventh",))]
        )


def test_prompts_in_one_batch_answer_as_alone(backbone):
    three = prompts(3)
    questions = [
        Question(ids(backbone, text), n, seed=s) for n in range(3) for s, text in enumerate(TEXTS)
    ]
    said = answerer(backbone, rows=3)(
        model_of(backbone, module_of(three, backbone.model), ONE), questions
    )
    assert len({answer.text for answer in said[::5]}) > 1, "the prompts differ"
    for n, prompt in enumerate(three):
        alone = [Question(ids(backbone, text), 0, seed=s) for s, text in enumerate(TEXTS)]
        wanted = answerer(backbone, rows=3)(
            model_of(backbone, module_of([prompt], backbone.model), ONE), alone
        )
        assert [a.text for a in said[5 * n : 5 * n + 5]] == [a.text for a in wanted]
        for a, b in zip(said[5 * n : 5 * n + 5], wanted, strict=True):
            assert a.score == pytest.approx(b.score, rel=1e-4)


def test_a_sampled_answer_does_not_depend_on_the_batch(backbone):
    how = Answering(sampling=decode.Sampling(temperature=0.7), seed=3)
    questions = [Question(ids(backbone, t), seed=s) for s, t in enumerate(TEXTS)]
    model = model_of(backbone, FixedPrompt(), ONE)
    said = answerer(backbone, how)(model, questions)
    assert [a.text for a in answerer(backbone, how)(model, questions[2:])] == [
        a.text for a in said[2:]
    ]


def test_vectors_are_those_of_the_encoder(backbone):
    prompt = prompts(1)[0]
    questions = [Question(ids(backbone, text)) for text in TEXTS]
    found = answerer(backbone, rows=3).embed(
        model_of(backbone, module_of([prompt], backbone.model), ONE), questions
    )
    batch = np.zeros((5, 32), np.int32)
    for n, question in enumerate(questions):
        batch[n, : len(question.inputs)] = question.inputs
    wide = lay_out({"encoder_input_tokens": batch}, prompt.layout)
    wanted = jax.jit(lambda m: decode.embed(m, wide, prompt.bundle()))(backbone.model)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_majority_wins_then_the_score():
    def answers_of(*pairs):
        return [Answer(text, score) for text, score in pairs]

    said = [
        answers_of(("a", -1.0), ("x", -5.0), ("p", -1.0)),
        answers_of(("b", -0.1), ("y", -1.0), ("q", -1.0)),
        answers_of(("a", -9.0), ("z", -2.0), ("r", -1.0)),
    ]
    found = vote(said)
    assert [answer.text for answer in found] == ["a", "y", "p"]
    assert [answer.score for answer in found] == pytest.approx([2 / 3, 1 / 3, 1 / 3])


def test_sampling_with_beams_is_refused():
    with pytest.raises(UserError, match=r"Answering.beams = 2: sampling draws one"):
        Answering(beams=2, sampling=decode.Sampling())
