"""Pretraining rows: what span corruption and prefix language modelling make of a text."""

import dataclasses
import lzma

import numpy as np
import pytest

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.data.corpus import Corpus, CorpusBatches, corrupt, corrupted_lengths
from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import EOS
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.run.counted_embeddings import (
    CountedEmbeddings,
    positive_pmi,
    window_counts,
    word_vectors,
)

SPANS = Corpus(
    files=(), root="", objective="span_corruption", input_length=96, target_length=32, batch_size=4
)
PREFIX = dataclasses.replace(SPANS, objective="prefix_lm")


class Numbers:
    """A vocabulary whose highest hundred ids are sentinels."""

    size = 5000
    digest = "numbers"


TEXT = np.arange(3, 4800, dtype=np.uint16)  # every id once, so that a chunk is known by its ids


def batches(corpus: Corpus, seed: int = 0, tokens: np.ndarray = TEXT) -> CorpusBatches:
    return CorpusBatches(corpus, [tokens], Numbers(), seed)


def spans_of(tokens: np.ndarray, sentinels: list[int]) -> list[list[int]]:
    """The tokens before, between and after the sentinels, which must come in their order."""
    assert tokens[-1] == EOS
    parts: list[list[int]] = [[]]
    found = []
    for token in tokens[:-1]:
        if token >= Numbers.size - 100:
            found.append(int(token))
            parts.append([])
        else:
            parts[-1].append(int(token))
    assert found == sentinels
    return parts


def rebuild(inputs: np.ndarray, targets: np.ndarray, spans: int) -> list[int]:
    """The text that was corrupted."""
    sentinels = [Numbers.size - 1 - k for k in range(spans)]
    kept, lost = spans_of(inputs, sentinels), spans_of(targets, sentinels)
    assert lost[0] == []
    assert kept[-1] == []  # T5's corruption ends in a lost span
    assert all(kept[:-1]) and all(lost[1:])
    return [token for a, b in zip(kept[:-1], lost[1:], strict=True) for token in (*a, *b)]


@pytest.mark.parametrize("seed", range(5))
def test_inputs_and_targets_rebuild_the_text(seed):
    text = np.arange(10, 110)
    inputs, targets = corrupt(text, 15, 5, Numbers.size, np.random.default_rng(seed))
    assert (len(inputs), len(targets)) == (100 - 15 + 5 + 1, 15 + 5 + 1)
    assert rebuild(inputs, targets, 5) == list(text)


def test_spans_differ_from_row_to_row():
    text = np.arange(10, 110)
    rows = [corrupt(text, 15, 5, Numbers.size, np.random.default_rng(s))[0] for s in range(20)]
    assert len({tuple(row) for row in rows}) == 20
    first = {int(np.flatnonzero(row == Numbers.size - 1)[0]) for row in rows}
    assert len(first) > 5


@pytest.mark.parametrize("length", [*range(32, 130, 7), 512, 1024])
def test_rows_are_full_and_fifteen_percent_is_lost(length):
    corpus = dataclasses.replace(SPANS, input_length=length, target_length=length)
    chunk, noise, spans = corrupted_lengths(corpus)
    assert chunk - noise + spans + 1 == length
    assert noise == round(0.15 * chunk)
    assert spans == round(noise / 3)


def test_the_numbers_of_t5():
    """Raffel et al.: 512 columns hold 568 tokens of text; the targets take 114."""
    corpus = dataclasses.replace(SPANS, input_length=512, target_length=114)
    assert corrupted_lengths(corpus) == (568, 85, 28)
    with pytest.raises(UserError, match=r"Corpus\.target_length = 113: is too short"):
        corrupted_lengths(dataclasses.replace(corpus, target_length=113))


def test_batches_of_spans():
    data = batches(SPANS)
    batch = data.batch(3)
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    assert inputs.shape == (4, 96)
    assert targets.shape == (4, data.noise + data.spans + 1)
    assert {value.dtype for value in batch.values()} == {np.dtype(np.int32)}
    for b in range(4):
        text = rebuild(inputs[b], targets[b], data.spans)
        assert text == list(range(text[0], text[0] + data.chunk))
    shifted = batch["decoder_input_tokens"]
    np.testing.assert_array_equal(shifted[:, 0], 0)
    np.testing.assert_array_equal(shifted[:, 1:], targets[:, :-1])


def test_batches_of_prefixes():
    data = batches(PREFIX)
    batch = data.batch(3)
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    assert (inputs.shape, targets.shape) == ((4, 96), (4, 32))
    np.testing.assert_array_equal(inputs[:, -1], EOS)
    np.testing.assert_array_equal(targets[:, -1], EOS)
    text = np.concatenate([inputs[:, :-1], targets[:, :-1]], axis=1)
    np.testing.assert_array_equal(text, text[:, :1] + np.arange(96 + 32 - 2))
    np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 1:], targets[:, :-1])


@pytest.mark.parametrize("corpus", [SPANS, PREFIX])
def test_rows_are_a_function_of_seed_and_step(corpus):
    one = batches(corpus, seed=7)
    steps = [one.batch(step) for step in range(40)]
    other = batches(corpus, seed=7)
    for step in (39, 0, 20, 38):
        for name, value in other.batch(step).items():
            np.testing.assert_array_equal(value, steps[step][name])
            part = other.batch(step, slice(1, 3))[name]
            np.testing.assert_array_equal(part, value[1:3])
    assert (
        batches(corpus, seed=8).batch(0)["encoder_input_tokens"]
        != one.batch(0)["encoder_input_tokens"]
    ).any()


@pytest.mark.parametrize("corpus", [SPANS, PREFIX])
def test_every_chunk_once_per_epoch(corpus):
    data = batches(dataclasses.replace(corpus, batch_size=1))
    starts = [
        [
            int(data.batch(epoch * data.chunks[0] + n)["encoder_input_tokens"][0, 0])
            for n in range(data.chunks[0])
        ]
        for epoch in range(2)
    ]
    for epoch in starts:
        assert sorted(epoch) == [min(epoch) + n * data.chunk for n in range(data.chunks[0])]
        assert epoch != sorted(epoch)
    assert min(starts[0]) != min(starts[1])  # another cut of the text
    assert np.argsort(starts[0]).tolist() != np.argsort(starts[1]).tolist()


def test_what_is_told():
    data = batches(PREFIX)
    assert data.describe() == {
        "tokens": len(TEXT),
        "rows_per_epoch": len(TEXT) // data.chunk - 1,
        "fill_rate": 1.0,
    }


def test_a_text_shorter_than_a_row_is_refused():
    with pytest.raises(UserError, match="corpus: has 100 tokens, fewer than one row"):
        batches(PREFIX, tokens=TEXT[:100])


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Corpus:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "a.txt").write_text("ab\ncd\n\ne\n")
    with lzma.open(tmp_path / "b.txt.xz", "wt") as file:
        file.write("fg")
    return dataclasses.replace(
        PREFIX, files=("a.txt", "b.txt.xz"), root=str(tmp_path), input_length=3, target_length=2
    )


def test_files_become_tokens(corpus, tmp_path):
    words = Vocabulary.bytes()
    tokens = corpus.tokens(words)
    assert words.decode([t for t in tokens if t != EOS]) == "abcdefg"
    np.testing.assert_array_equal(np.flatnonzero(tokens == EOS), [4, 6, 9])
    assert tokens.dtype == np.uint16
    (cached,) = (tmp_path / "temporary" / "prompt_jax").iterdir()
    before = cached.stat().st_mtime_ns
    np.testing.assert_array_equal(corpus.tokens(words), tokens)
    assert cached.stat().st_mtime_ns == before


def test_a_corpus_is_opened(corpus):
    data = corpus.open(Vocabulary.bytes(), PromptLayout(), seed=0)
    assert data.describe()["tokens"] == 10
    assert data.batch(0)["encoder_input_tokens"].shape == (4, 3)


def test_a_missing_file_is_named(corpus):
    gone = dataclasses.replace(corpus, files=("c.txt",))
    with pytest.raises(
        UserError, match=r"corpus file '.*c\.txt': does not exist; set Corpus\.root"
    ):
        gone.tokens(Vocabulary.bytes())


@pytest.mark.parametrize(("length", "density"), [(2, 0.15), (24, 0.95)])
def test_rows_without_room_for_their_spans(length, density):
    corpus = dataclasses.replace(
        SPANS, input_length=length, target_length=500, noise_density=density
    )
    with pytest.raises(UserError, match=f"Corpus.noise_density = {density}: rows of {length}"):
        corrupted_lengths(corpus)


def test_blank_lines_in_a_row_end_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("\none\n\n\n\ntwo\n\n")
    corpus = dataclasses.replace(SPANS, files=("a.txt",), root=str(tmp_path))
    tokens = corpus.tokens(Vocabulary.bytes())
    assert list(tokens).count(EOS) == 2 and tokens[-1] == EOS


def test_counted_vectors_bring_words_together_that_share_their_surroundings():
    rng = np.random.default_rng(0)
    ring = rng.integers(0, 2, 4000)  # two topics; each word stands among those of its topic
    tokens = np.stack([3 + 4 * ring + rng.integers(0, 4, 4000) for _ in range(6)], 1).ravel()
    vectors = word_vectors(positive_pmi(window_counts(tokens, 12, window=4)), 2)
    assert np.abs(vectors[[0, 1, 2, 11]]).max() < 1e-5
    unit = vectors[3:11] / np.linalg.norm(vectors[3:11], axis=1, keepdims=True)
    alike = unit @ unit.T
    assert alike[:4, :4].min() > 0.9 > alike[:4, 4:].max() + 0.5


def test_counted_embeddings_keep_scale_and_unseen_rows(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat and the dog sat on the log\n" * 9)
    corpus = dataclasses.replace(SPANS, files=("a.txt",), root=str(tmp_path))
    words = Vocabulary.bytes()
    rng = np.random.default_rng(0)
    random = {
        "token_embedder/embedding": rng.normal(size=(384, 4)).astype(np.float32),
        "decoder/logits_dense/kernel": rng.normal(size=(4, 384)).astype(np.float32) / 2,
        "encoder/encoder_norm/scale": np.ones(4, np.float32),
    }
    started = CountedEmbeddings(corpus=corpus, window=2).start(random, words)
    table, head = (started[name] for name in list(random)[:2])
    seen = sorted(set(corpus.tokens(words)))
    assert (table[300] == random["token_embedder/embedding"][300]).all()
    assert np.sqrt(np.mean(table[seen] ** 2)) == pytest.approx(1.0, rel=0.1)
    np.testing.assert_allclose(head[:, seen].T / table[seen], 0.5, rtol=0.1)
    assert started["encoder/encoder_norm/scale"] is random["encoder/encoder_norm/scale"]


def test_aligned_lines_bring_translations_together(tmp_path):
    rng = np.random.default_rng(0)
    facts = rng.integers(0, 2, (60, 5))
    for name, words in (("en.txt", "ab"), ("de.txt", "xy")):
        (tmp_path / name).write_text("\n".join("".join(words[i] for i in row) for row in facts))
    corpus = dataclasses.replace(SPANS, files=("en.txt", "de.txt"), root=str(tmp_path))
    random = {"token_embedder/embedding": rng.normal(size=(384, 2)).astype(np.float32)}
    words = Vocabulary.bytes()
    aligned = CountedEmbeddings(corpus=corpus, window=1, aligned=("en.txt", "de.txt"))
    table = aligned.start(random, words)["token_embedder/embedding"]
    a, b, x, y = (table[words.encode(letter)[0]] for letter in "abxy")
    assert min(a @ x, b @ y) > max(a @ y, b @ x)


def test_languages_come_in_proportion_to_a_power_of_their_size(tmp_path):
    for name, letter, size in (("en", "a", 4000), ("sw", "b", 250)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(letter * size)
    corpus = dataclasses.replace(
        PREFIX,
        files=("en/text.txt", "sw/text.txt"),
        root=str(tmp_path),
        input_length=8,
        target_length=8,
        language_exponent=0.5,
    )
    assert [part.language for part in corpus.languages()] == ["en", "sw"]
    data = corpus.open(Vocabulary.bytes(), PromptLayout(), seed=0)
    size = corpus.batch_size
    seen = np.concatenate([data.batch(step)["encoder_input_tokens"][:, 0] for step in range(256)])
    counts = np.unique(seen, return_counts=True)[1]
    assert len(seen) == 256 * size == 1024 and counts.tolist() == [819, 205]
    again = corpus.open(Vocabulary.bytes(), PromptLayout(), seed=0)
    np.testing.assert_array_equal(
        again.batch(200)["encoder_input_tokens"], data.batch(200)["encoder_input_tokens"]
    )


def test_an_exponent_out_of_range():
    with pytest.raises(UserError, match=r"Corpus\.language_exponent = 2"):
        dataclasses.replace(SPANS, language_exponent=2)
