"""Metrics of written texts against the libraries called directly, and by hand."""

import pytest
import sacrebleu
from rouge_score import rouge_scorer, scoring

from prompt_jax.errors import UserError
from prompt_jax.metrics import generation as metrics_generation
from prompt_jax.metrics.generation import (
    bleu,
    bleu_of,
    chrf,
    language_id,
    languages_of,
    rouge,
    sp_rouge,
)

TARGETS = ["The cats sat on the mat.\nIt rained.", "Police arrested two men on Monday", "no"]
SAID = ["A cat was sitting on the mat.\nRain fell.", "Two men were arrested by police", "yes"]


def test_rouge_is_the_mean_of_rouge_scores_f1():
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
    rows = [scorer.score(t, p) for t, p in zip(TARGETS, SAID, strict=True)]
    expected = {name: 100 * sum(row[name].fmeasure for row in rows) / 3 for name in names}
    assert rouge(TARGETS, SAID) == pytest.approx(expected, abs=1e-9)
    aggregator = scoring.BootstrapAggregator(n_samples=200)
    for row in rows:
        aggregator.add_scores(row)
    low, _, high = aggregator.aggregate()["rougeLsum"]
    assert 100 * low.fmeasure <= rouge(TARGETS, SAID)["rougeLsum"] <= 100 * high.fmeasure


def test_the_best_reference_counts():
    assert rouge([["x y", "a b"]], ["a b"])["rouge2"] == 100.0


def test_sp_rouge_reads_what_words_cannot():
    thai, said = ["แมวนั่งบนเสื่อ"], ["แมวนอนบนเสื่อ"]
    assert rouge(thai, said)["rouge1"] == 0.0
    told = sp_rouge(lambda text: [ord(c) for c in text])(thai, said)
    # 14 and 13 characters, of which 11 are shared as a bag.
    shared = sum(min(thai[0].count(c), said[0].count(c)) for c in set(thai[0]))
    expected = 100 * 2 * shared / (len(thai[0]) + len(said[0]))
    assert told["sp_rouge1"] == pytest.approx(expected, abs=1e-9)
    assert set(told) == {"sp_rouge1", "sp_rouge2", "sp_rougeL", "sp_rougeLsum"}


def test_bleu_and_chrf_are_sacrebleus():
    assert bleu(TARGETS, SAID)["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(SAID, [TARGETS]).score, abs=1e-9
    )
    assert chrf(TARGETS, SAID)["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf(SAID, [TARGETS]).score, abs=1e-9
    )
    chinese = ["我爱北京天安门", "他来了"], ["我爱北京", "他走了"]
    expected = sacrebleu.corpus_bleu(chinese[1], [chinese[0]], tokenize="zh").score
    assert bleu_of("zh")(*chinese)["bleu"] == pytest.approx(expected, abs=1e-9)


def test_rows_may_have_different_numbers_of_references():
    targets = [["the cat sat on the mat", "a cat lay on a mat"], "hello to all my old friends"]
    said = ["the cat lay on a mat", "hello to my old friends"]
    streams = [[targets[0][0], targets[1]], [targets[0][1], None]]
    expected = sacrebleu.corpus_bleu(said, streams).score
    assert bleu(targets, said)["bleu"] == pytest.approx(expected, abs=1e-9)


def test_the_language_of_outputs():
    said = ["Das ist ein kleines Haus am See.", "This is a small house by the lake.", "1 2 3", ""]
    told = language_id("de")([""] * 4, said)
    assert told == {"language/de": 25.0, "language/none": 50.0}
    assert languages_of("Esta casa es pequeña", ("en", "de")) in ("en", "de")


def test_a_missing_library_is_named(monkeypatch):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(metrics_generation.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"sacrebleu: not installed; run pip install 'prompt-jax"):
        chrf(["a"], ["a"])
