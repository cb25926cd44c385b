"""Answers within a trie of choices: what may follow what, and searches that keep to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.answer.answerer import Answerer, Answering, Question
from prompt_jax.answer.tries import Tries
from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.errors import UserError
from prompt_jax.evaluate.prompts import model_of
from prompt_jax.methods.base import FixedPrompt
from prompt_jax.model.decode import Sampling
from prompt_jax.model.sharding import MeshShape
from prompt_jax.model.trie import trie_of
from prompt_jax.prompt.layout import PromptLayout

ONE = MeshShape().build(jax.devices()[:1])
CHOICES = [("a", "bcd"), ("no", "yes", "maybe", "nor"), ("a", "bcd"), ("qqqq",), ("no", "a")]


@pytest.fixture(scope="module")
def backbone(tiny) -> Backbone:
    return load_backbone(f"files:{tiny}/backbone", "float32")


def following(trie, root: int, *ids: int) -> list[int]:
    """The tokens that may follow."""
    row = jnp.asarray([[*ids, *[0] * (6 - len(ids))]])
    shown = jax.jit(lambda r: trie.allowed(jnp.asarray([root]), r, jnp.asarray([len(ids)]), 10))
    return np.flatnonzero(shown(row)[0]).tolist()


def test_what_may_follow_is_what_goes_on_in_a_text():
    """By hand, of the texts 5 6 and 5 7 8; the second set has 9 alone."""
    trie, (first, second) = trie_of([[[5, 6], [5, 7, 8]], [[9]]])
    assert following(trie, first) == [5]
    assert following(trie, first, 5) == [6, 7]
    assert following(trie, first, 5, 6) == [1]
    assert following(trie, first, 5, 7) == [8]
    assert following(trie, first, 5, 7, 8) == [1]
    assert following(trie, second) == [9]
    assert following(trie, second, 5) == following(trie, 0) == []


def test_another_text_follows_a_separator():
    trie, (root,) = trie_of([[[5, 6], [5]]], between=[3, 4])
    assert following(trie, root, 5) == [1, 3, 6]
    assert following(trie, root, 5, 6) == [1, 3]
    assert following(trie, root, 5, 3) == [4]
    assert following(trie, root, 5, 3, 4) == [5]
    assert following(trie, root, 5, 3, 4, 5, 6) == [1, 3]
    with pytest.raises(UserError, match="begins with another and the separator; take"):
        trie_of([[[5], [5, 3, 4]]], between=[3, 4])


def asked(backbone: Backbone, how: Answering, choices=CHOICES, limit: int = 6):
    words = backbone.vocabulary
    ids = [np.asarray([*words.encode(f"text {n}"), 1], np.int32) for n in range(len(choices))]
    questions = [
        Question(x, 0, c, seed=n) for n, (x, c) in enumerate(zip(ids, choices, strict=True))
    ]
    answerer = Answerer(words, PromptLayout(), ONE, (16, limit), 4, how)
    return answerer(model_of(backbone, FixedPrompt(), ONE), questions)


def test_a_search_that_is_wide_enough_finds_the_likeliest_choice(backbone):
    """Without a length penalty, its score is the log-likelihood by which choices are ranked."""
    wide = asked(backbone, Answering(beams=4, alpha=0.0, constrained=True))
    for found, ranked in zip(wide, asked(backbone, Answering(mode="rank")), strict=True):
        assert found.text == ranked.text
        assert found.score == pytest.approx(ranked.score, abs=1e-4)


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=3.0, top_k=20)])
def test_what_is_written_is_a_choice_of_the_row(backbone, sampling):
    how = Answering(constrained=True, sampling=sampling)
    for answer, choices in zip(asked(backbone, how), CHOICES, strict=True):
        assert answer.text in choices
    free = asked(backbone, Answering(sampling=sampling))
    assert any(a.text not in choices for a, choices in zip(free, CHOICES, strict=True))


def test_several_choices_may_be_written(backbone):
    """Choices with the separator are several; what the limit cuts may end within one."""
    how = Answering(constrained=True, separator=", ", sampling=Sampling(temperature=9.0))
    texts = [a.text for a in asked(backbone, how, [("a, be", "be")] * 12, limit=40)]
    whole = [text for text in texts if len(text) < 36]
    assert whole and {label for text in whole for label in text.split(", ")} == {"a", "be"}


def test_a_separator_that_becomes_part_of_a_label_is_refused():
    class Pairs:
        """Pieces of two letters: a comma stands with what is before it."""

        def __call__(self, text: str) -> np.ndarray:
            return np.asarray([*(hash(text[n : n + 2]) for n in range(0, len(text), 2)), 1])

    with pytest.raises(UserError, match="separator ',': has other pieces beside"):
        Tries(Pairs(), ",")([Question(np.zeros(1), 0, ("a", "bc"))], 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"constrained": True, "mode": "rank"}, "go with mode 'rank'; take the mode 'generate'"),
        ({"constrained": True, "continuous": True}, "go with mode 'generate' and continuous"),
        ({"separator": ", "}, "separates the choices of a constrained answer"),
    ],
)
def test_what_cannot_be_constrained_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Answering(**settings)
    assert "constrained" not in Answering().record()
