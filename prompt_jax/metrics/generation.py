"""Metrics of written texts: ROUGE, SentencePiece-ROUGE, BLEU, chrF, and the language of outputs.

They need the extra `generation` (rouge-score, sacrebleu, py3langid). A target is a text or a list
of references. Values are percentages.
"""

import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from prompt_jax.errors import UserError
from prompt_jax.metrics.text import check_lengths

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
References = str | Sequence[str]
TextMetric = Callable[[Sequence[References], Sequence[str]], dict[str, float]]


def rouge(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"rouge1", "rouge2", "rougeL", "rougeLsum"}: mean F1 of stemmed English words.

    rouge-score's, as T5 has it, but the plain mean in place of a bootstrapped median. Of several
    references the best counts. For rougeLsum, sentences stand on lines of their own.
    """
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(ROUGES, use_stemmer=True)
    return _rouge(scorer, targets, predictions, "")


def sp_rouge(tokenize: Callable[[str], list]) -> TextMetric:
    """The metric {"sp_rouge1", ...}: ROUGE over the pieces of a SentencePiece model.

    For languages that rouge-score's word rule does not know, such as Thai (Vu et al. 2022,
    https://arxiv.org/abs/2205.12647). `tokenize` is a vocabulary's `encode`.
    """

    class Pieces:
        def tokenize(self, text: str) -> list[str]:
            return [str(piece) for piece in tokenize(text)]

    def sp_rouge(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
        scorer = _library("rouge_score.rouge_scorer").RougeScorer(ROUGES, tokenizer=Pieces())
        return _rouge(scorer, targets, predictions, "sp_")

    return sp_rouge


def _rouge(scorer: Any, targets, predictions, prefix: str) -> dict[str, float]:
    check_lengths(targets, predictions)
    total = dict.fromkeys(ROUGES, 0.0)
    for target, prediction in zip(targets, predictions, strict=True):
        scores = scorer.score_multi(_references(target), prediction)
        total = {name: value + scores[name].fmeasure for name, value in total.items()}
    return {f"{prefix}{name}": 100.0 * value / len(targets) for name, value in total.items()}


def bleu(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"bleu"}: sacreBLEU's corpus BLEU of detokenised text, tokenised by `13a`, its default.

    T5 tokenises by `intl`: that is `bleu_intl`. `bleu_signatures` names both.
    """
    return bleu_of("13a")(targets, predictions)


def bleu_intl(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"bleu_intl"}: T5's BLEU, tokenised by `intl`, which splits off every Unicode symbol."""
    return {"bleu_intl": bleu_of("intl")(targets, predictions)["bleu"]}


BLEU_TOKENISERS = {"bleu": "13a", "bleu_intl": "intl"}


def bleu_signatures(names: Iterable[str], references: int = 1) -> dict[str, str]:
    """{name: sacreBLEU's signature} of the BLEUs among the names of metrics: it belongs beside the
    number wherever that is quoted.

    `references`: the most references of an output.
    """
    signatures = {}
    for name in BLEU_TOKENISERS.keys() & set(names):
        metric = _library("sacrebleu").BLEU(tokenize=BLEU_TOKENISERS[name])
        metric.num_refs = references
        signatures[name] = str(metric.get_signature())
    return dict(sorted(signatures.items()))


def bleu_of(tokenize: str) -> TextMetric:
    """The metric {"bleu"} with another of sacreBLEU's tokenisers: `zh`, `char`, `none`, ..."""

    def bleu(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
        metric = _library("sacrebleu").BLEU(tokenize=tokenize)
        return {"bleu": metric.corpus_score(*_corpus(targets, predictions)).score}

    return bleu


def chrf(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"chrf"}: sacreBLEU's corpus chrF2."""
    return {"chrf": _library("sacrebleu").CHRF().corpus_score(*_corpus(targets, predictions)).score}


def language_id(language: str, among: Sequence[str] | None = None) -> TextMetric:
    """The metric {"language/LL": percent of outputs in the language LL, "language/none": empty}.

    `among`: the ISO 639-1 codes that may be found; None: py3langid's 97.
    """

    def language_id(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
        check_lengths(targets, predictions)
        languages = [languages_of(text, tuple(among) if among else None) for text in predictions]
        share = 100.0 / len(languages)
        return {
            f"language/{language}": share * languages.count(language),
            "language/none": share * languages.count(""),
        }

    return language_id


def languages_of(text: str, among: tuple[str, ...] | None = None) -> str:
    """The language of a text as an ISO 639-1 code; "" where it has no letters."""
    if not any(map(str.isalpha, text)):
        return ""
    return str(_identifier(among).classify(text)[0])


@cache
def _identifier(among: tuple[str, ...] | None) -> Any:
    langid = _library("py3langid.langid")
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    if among is not None:
        identifier.set_languages(list(among))
    return identifier


def _corpus(targets, predictions) -> tuple[list[str], list[list[str]]]:
    """What sacreBLEU takes: the outputs, and one list for the n-th reference of every output."""
    check_lengths(targets, predictions)
    rows = [_references(target) for target in targets]
    most = max(map(len, rows))
    # Where there are fewer references, the first again: it changes neither counts nor lengths.
    return list(predictions), [
        [(row * most)[n] if n < len(row) else row[0] for row in rows] for n in range(most)
    ]


def _references(target: References) -> list[str]:
    return [target] if isinstance(target, str) else list(target)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            module.split(".")[0], "not installed", "run pip install 'prompt-jax[generation]'"
        ) from None
