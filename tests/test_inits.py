"""How prompts begin."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.backbone.load import SHIPPED
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import UserError
from prompt_jax.methods.parts.inits import (
    ClassLabelInit,
    FileInit,
    SampledVocabInit,
    TextInit,
    UniformInit,
)
from prompt_jax.methods.parts.start import Start
from prompt_jax.prompt.artefact import load_prompt

EMBEDDING = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
BYTES = Vocabulary.bytes()
KEY = jax.random.key(0)


def call(init, length, key=KEY, embedding=EMBEDDING, vocabulary=BYTES, choices=()):
    table = SimpleNamespace(**{"embedding": {...: jnp.asarray(embedding)}})
    model = SimpleNamespace(token_embedder=table)
    config = SimpleNamespace(emb_dim=embedding.shape[1])
    known = {"config": config, "model": model, "name": "tiny", "digest": "0" * 64}
    start = Start(SimpleNamespace(**known, vocabulary=vocabulary), choices)
    rows = start.one(init, key, length)
    assert isinstance(rows, np.ndarray)
    assert (rows.shape, rows.dtype) == ((length, embedding.shape[1]), np.float32)
    return rows


def ids_of(rows: np.ndarray) -> list[int]:
    """Which rows of the embedding these are; each must be one of them."""
    same = (rows[:, None] == EMBEDDING[None]).all(axis=-1)
    assert (same.sum(axis=1) == 1).all()
    return [int(i) for i in same.argmax(axis=1)]


def embedded(text: str) -> np.ndarray:
    return EMBEDDING[BYTES.encode(text)]


def test_uniform_as_the_paper_reads():
    rows = call(UniformInit(), 500)
    assert -0.5 <= rows.min() < -0.49 and 0.49 < rows.max() < 0.5
    assert abs(rows.mean()) < 0.02


def test_uniform_as_the_released_code_draws():
    rows = call(UniformInit(symmetric=False), 500)
    assert 0 <= rows.min() < 0.01 and 0.49 < rows.max() < 0.5
    assert abs(rows.mean() - 0.25) < 0.01


def test_uniform_scale():
    np.testing.assert_allclose(call(UniformInit(scale=2.0), 5), 4 * call(UniformInit(), 5))


@pytest.mark.parametrize("init", [UniformInit(), SampledVocabInit(), TextInit(text="a")])
def test_the_key_decides(init):
    np.testing.assert_array_equal(call(init, 6), call(init, 6))
    assert (call(init, 6) != call(init, 6, key=jax.random.key(1))).any()


def test_sampled_vocabulary_is_of_the_commonest_and_distinct():
    ids = ids_of(call(SampledVocabInit(population=40, byte_pieces=True), 40))
    assert sorted(ids) == list(range(40))
    assert ids != sorted(ids)
    assert max(ids_of(call(SampledVocabInit(population=40), 7))) < 40


def test_bytes_and_special_pieces_are_left_out():
    """nano's vocabulary has 256 pieces of bytes behind padding, EOS and unknown."""
    words = Vocabulary.from_file(str(SHIPPED["nano"] / "nano" / "spiece.model"))
    table = np.arange(600, dtype=np.float32)[:, None]
    init = SampledVocabInit(population=300)
    ids = call(init, 41, embedding=table, vocabulary=words)[:, 0]
    assert sorted(ids) == list(range(259, 300))
    released = SampledVocabInit(population=300, byte_pieces=True)
    assert min(call(released, 41, embedding=table, vocabulary=words)[:, 0]) < 259
    with pytest.raises(UserError, match="none of these pieces is text"):
        call(SampledVocabInit(population=9, byte_pieces=False), 2, vocabulary=words)


def test_sampled_vocabulary_takes_all_of_a_small_table():
    ids = ids_of(call(SampledVocabInit(), 300))
    assert sorted(ids) == list(range(300))


def test_a_prompt_longer_than_the_population_repeats():
    ids = ids_of(call(SampledVocabInit(population=5), 50))
    assert set(ids) == set(range(5))


def test_sampled_vocabulary_of_bfloat16():
    rows = call(SampledVocabInit(), 4, embedding=EMBEDDING.astype(jax.numpy.bfloat16))
    assert rows.dtype == np.float32


def test_a_population_is_at_least_one():
    with pytest.raises(UserError, match=r"SampledVocabInit\.population = 0: give at least 1"):
        SampledVocabInit(population=0)


def test_a_label_is_the_mean_of_its_pieces():
    rows = call(ClassLabelInit(population=20), 5, choices=("yes", "no", "x"))
    for row, label in zip(rows, ("yes", "no", "x"), strict=False):
        np.testing.assert_allclose(row, embedded(label).mean(axis=0), rtol=1e-6)
    rest = ids_of(rows[3:])
    assert max(rest) < 20 and len(set(rest)) == 2


def test_labels_of_ones_own_come_before_the_tasks():
    rows = call(ClassLabelInit(labels=("good",)), 1, choices=("yes", "no"))
    np.testing.assert_allclose(rows[0], embedded("good").mean(axis=0), rtol=1e-6)


def test_more_labels_than_rows():
    with pytest.raises(UserError, match=r"ClassLabelInit\.labels: 2 of them, and only 1 prompt"):
        call(ClassLabelInit(), 1, choices=("yes", "no"))


def test_text_is_embedded_piece_by_piece():
    rows = call(TextInit(text="good?", population=20), 8)
    np.testing.assert_array_equal(rows[:5], embedded("good?"))
    assert max(ids_of(rows[5:])) < 20
    np.testing.assert_array_equal(call(TextInit(text="good?"), 3), embedded("goo"))


NO_TEXT = [
    (ClassLabelInit(), {}, "ClassLabelInit.labels = (): the task declares none"),
    (
        ClassLabelInit(labels=("",)),
        {},
        "'': cannot be embedded: the vocabulary gives no piece for it",
    ),
    (
        ClassLabelInit(labels=("a",)),
        {"vocabulary": None},
        "'a': cannot be embedded, for the backbone has no",
    ),
    (TextInit(text=""), {}, "'': cannot be embedded"),
    (TextInit(text="a"), {"vocabulary": None}, "bind VOCABULARY"),
]


@pytest.mark.parametrize(("init", "given", "message"), NO_TEXT)
def test_without_text_or_vocabulary(init, given, message):
    with pytest.raises(UserError) as caught:
        call(init, 3, **given)
    assert message in str(caught.value)


def test_a_file_is_taken_as_it_is(tmp_path):
    path = str(tmp_path / "p.npy")
    np.save(path, EMBEDDING[:6])
    np.testing.assert_array_equal(call(FileInit(path=path), 6), EMBEDDING[:6])


@pytest.mark.parametrize("shape", [(5, 8), (6, 7)])
def test_a_file_of_another_shape_is_refused(tmp_path, shape):
    path = str(tmp_path / "p.npy")
    np.save(path, np.zeros(shape, np.float32))
    with pytest.raises(UserError) as caught:
        call(FileInit(path=path), 6)
    for part in (path, str(list(shape)), "[6, 8]", f"PROMPT_LENGTH to {shape[0]}"):
        assert part in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        call(FileInit(path=str(tmp_path / "p.npy")), 6)


@pytest.mark.parametrize("name", ["mrpc", "rte", "sst2"])
def test_released_prompts_are_inits(shared, name):
    path = str(shared / "golden" / "released_prompts" / f"{name}.npy")
    rows = call(FileInit(path=path), 100, embedding=np.zeros((1, 768), np.float32))
    np.testing.assert_array_equal(rows, load_prompt(path).array)
