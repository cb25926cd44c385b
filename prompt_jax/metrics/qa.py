"""Metrics of answers that are spans of a text: SQuAD, MLQA, ReCoRD, and WSC's match of a referent.

Values are percentages. A target is one answer or a list of right ones, of which the best counts;
predictions are texts. Answers are compared in lower case, without punctuation and articles:

  squad    English articles and ASCII punctuation (Rajpurkar et al. 2016); XQuAD and TyDiQA use it
  mlqa     every language's own articles, all Unicode punctuation, and characters in place of words
           for Chinese (Lewis et al. 2020)
  record   as SQuAD, every query counted once (Zhang et al. 2018, and T5's SuperGLUE)
"""

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from prompt_jax.errors import UserError
from prompt_jax.metrics.text import UNLABELLED, check_lengths

Normalise = Callable[[str], str]
Answers = str | Sequence[str]

MLQA_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",  # noqa: RUF001
    "hi": None,
    "zh": None,
}
HAN = re.compile(r"([\u4e00-\u9fa5])")
DETERMINERS = {
    "a",
    "an",
    "each",
    "every",
    "few",
    "her",
    "his",
    "many",
    "much",
    "my",
    "our",
    "some",
    "that",
    "the",
    "their",
    "these",
    "this",
    "those",
    "which",
    "whose",
    "your",
}


def normalise_squad(text: str) -> str:
    """SQuAD's form of an answer.

    >>> normalise_squad("The  Cat's hat!")
    'cats hat'
    """
    words = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", words).split())


def normalise_mlqa(text: str, language: str) -> str:
    """MLQA's form of an answer in one of its seven languages; Chinese characters stand alone.

    >>> normalise_mlqa("Der Hut, das Haus", "de"), normalise_mlqa("北京 city", "zh")
    ('hut haus', '北 京 city')
    """
    words = text.lower().translate(_punctuation())
    articles = MLQA_ARTICLES[language]
    words = words if articles is None else re.sub(articles, " ", words)
    words = HAN.sub(r" \1 ", words) if language == "zh" else words
    return " ".join(words.split())


@cache
def _punctuation() -> dict[int, None]:
    """Every ASCII punctuation mark and every character of a Unicode class P*, to be deleted."""
    marks = (c for c in range(sys.maxunicode) if unicodedata.category(chr(c))[0] == "P")
    return dict.fromkeys([*map(ord, string.punctuation), *marks])


def squad(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
    """{"em", "f1"}: SQuAD's, the mean over questions of the best over right answers.

    >>> squad([["the cat", "a dog"]], ["cat food"])
    {'em': 0.0, 'f1': 66.66666666666667}
    """
    return _span_scores(targets, predictions, normalise_squad)


def mlqa(language: str) -> Callable[[Sequence[Answers], Sequence[str]], dict[str, float]]:
    """The metric {"em", "f1"} by MLQA's rules for the language of the answers."""
    if language not in MLQA_ARTICLES:
        raise UserError(
            f"MLQA in {language!r}",
            "has no rules",
            f"it has {', '.join(MLQA_ARTICLES)} (use squad)",
        )

    def mlqa(targets: Sequence[Answers], predictions: Sequence[str]) -> dict[str, float]:
        return _span_scores(targets, predictions, lambda text: normalise_mlqa(text, language))

    return mlqa


def record(targets: Sequence[Mapping], predictions: Sequence) -> dict[str, float]:
    """{"em", "f1"}: ReCoRD's, of what `record_answer` makes of texts; a query counts once.

    T5 trains on a row for every right entity; the rows of one query share their prediction.
    """
    first: dict = {}
    for target, prediction in zip(targets, predictions, strict=True):
        first.setdefault(target["group"], (target["value"], prediction["value"]))
    wanted, predicted = zip(*first.values(), strict=True) if first else ((), ())
    return _span_scores(wanted, predicted, normalise_squad)


def record_answer(text: str, example: Mapping, is_target: bool = False) -> dict:
    """SeqIO's postprocessing of ReCoRD: a target is every right answer with its query's `group`."""
    if not is_target:
        return {"value": text}
    return {"value": list(example["answers"]), "group": example["idx/query"]}


def answers(text: str, example: Mapping, is_target: bool = False) -> Answers:
    """SeqIO's postprocessing of questions: a target is the example's list `answers`."""
    return list(example["answers"]) if is_target else text


def same_referent(prediction: str, referent: str) -> bool:
    """Whether a text names WSC's referent, as T5 judges it.

    Case and determiners do not count; one's words must all be among the other's, and both or
    neither have an apostrophe ("Bob" is not "Bob's hat").

    >>> same_referent("the fuzzy Bunny", "bunny"), same_referent("Bob", "Bob's hat")
    (True, False)
    """
    predicted, wanted = (_content_words(text) for text in (prediction, referent))
    if any("'" in word for word in predicted) != any("'" in word for word in wanted):
        return False
    return predicted <= wanted or wanted <= predicted


def _content_words(text: str) -> set[str]:
    words = [word for word in text.strip().lower().split(" ") if word not in DETERMINERS]
    return set(words or [""])


def wsc_match(referent: str) -> Callable[..., str]:
    """SeqIO's postprocessing of WSC: "True" where the text names the example's field `referent`.

    A target is what the example's `label` says, as "True" or "False" (-1: no label).
    """
    texts = {0: "False", 1: "True", -1: UNLABELLED}

    def wsc_match(text: str, example: Mapping, is_target: bool = False) -> str:
        if is_target:
            return texts[int(example["label"])]
        return str(same_referent(text, example[referent]))

    return wsc_match


def _span_scores(targets: Sequence[Answers], predictions: Sequence[str], form: Normalise) -> dict:
    check_lengths(targets, predictions)
    wanted = [[target] if isinstance(target, str) else list(target) for target in targets]
    if blank := sum(not right or right == [UNLABELLED] for right in wanted):
        raise UserError(
            "cannot score",
            f"{blank} of {len(wanted)} rows have no answers",
            "choose a labelled split such as validation",
        )
    exact, overlap = 0.0, 0.0
    for right, text in zip(wanted, predictions, strict=True):
        guess = form(text)
        forms = [form(answer) for answer in right]
        exact += guess in forms
        overlap += max(_token_f1(answer.split(), guess.split()) for answer in forms)
    return {"em": 100.0 * exact / len(wanted), "f1": 100.0 * overlap / len(wanted)}


def _token_f1(wanted: list[str], predicted: list[str]) -> float:
    """F1 of two bags of words; 0 where they share none, as in the official scripts."""
    common = sum((Counter(wanted) & Counter(predicted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)
