"""Metrics of tag sequences: span F1 for named entities (PAN-X), accuracy for parts of speech.

A sequence is a list of tags, or a text of tags between spaces. A prediction that is too short is
filled with "O" and one that is too long is cut: every token of the target has one tag. Values are
percentages.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from prompt_jax.metrics.text import check_lengths

Tags = str | Sequence[str]
Span = tuple[str, int, int]  # type, first and last token
OUTSIDE = "O"


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities in a sequence, read as seqeval reads them by default (as conlleval does).

    A tag is a place (its first letter) and a type (what follows the hyphen). A span begins at B and
    S, at I and E after O, E and S, and where the type changes; it ends before B, S and O, after E
    and S, and where the type changes. Tags of other letters, as a model may give, are judged by
    their type alone.

    >>> spans(["I-PER", "I-PER", "B-PER", "O", "B-LOC", "I-ORG"])
    [('PER', 0, 1), ('PER', 2, 2), ('LOC', 4, 4), ('ORG', 5, 5)]
    """
    entities, start = [], 0
    last, last_kind = OUTSIDE, ""
    for i, tag in enumerate([*tags, OUTSIDE]):
        place, kind = tag[:1], tag[1:].split("-", 1)[-1] or "_"
        other = kind != last_kind
        cut = last in "ES" or (last in "BI" and place in "BSO") or (last != OUTSIDE and other)
        if cut and last != OUTSIDE:
            entities.append((last_kind, start, i - 1))
        opens = place in "BS" or (place in "EI" and last in "ESO")
        if opens or (place != OUTSIDE and other):
            start = i
        last, last_kind = place, kind
    return entities


def span_f1(targets: Sequence[Tags], predictions: Sequence[Tags]) -> dict[str, float]:
    """{"span_precision", "span_recall", "span_f1"} over the entities of all sequences: seqeval's.

    >>> span_f1(["B-PER I-PER O"], ["B-PER I-PER B-LOC"])
    {'span_precision': 50.0, 'span_recall': 100.0, 'span_f1': 66.66666666666667}
    """
    pairs = _aligned(targets, predictions)
    # One long sequence with O between sentences, as seqeval reads a list of them.
    wanted, predicted = (
        set(spans([tag for pair in pairs for tag in [*pair[side], OUTSIDE]])) for side in (0, 1)
    )
    return _f1("span", len(wanted & predicted), len(predicted), len(wanted))


def named_f1(targets: Sequence[Iterable], predictions: Sequence[Iterable]) -> dict[str, float]:
    """The same of entities that are named in place of tagged: each row a set of (type, text)."""
    check_lengths(targets, predictions)
    wanted = {(n, *pair) for n, row in enumerate(targets) for pair in row}
    predicted = {(n, *pair) for n, row in enumerate(predictions) for pair in row}
    return _f1("span", len(wanted & predicted), len(predicted), len(wanted))


def tag_accuracy(targets: Sequence[Tags], predictions: Sequence[Tags]) -> dict[str, float]:
    """{"tag_accuracy": percent} of all tokens of all sequences."""
    pairs = _aligned(targets, predictions)
    right = sum(w == s for tags, predicted in pairs for w, s in zip(tags, predicted, strict=True))
    total = sum(len(tags) for tags, _ in pairs)
    return {"tag_accuracy": 100.0 * right / total}


def tag_f1(targets: Sequence[Tags], predictions: Sequence[Tags]) -> dict[str, float]:
    """{"tag_f1": percent}: XTREME's F1 of parts of speech, with which its numbers are compared.

    XTREME gives seqeval tags without a place, of which it takes the first letter for the place and
    the rest for the type ("NOUN": N, OUN), so that a run of one tag is one span.
    """
    return {"tag_f1": span_f1(targets, predictions)["span_f1"]}


def grouped(metric: Callable) -> Callable:
    """`metric` of sequences, for rows of one token each: {"group", "value"}, in source order.

    For tasks that ask for every token's tag by itself: `group` is the sentence; predictions are
    {"value": tag}.
    """

    def grouped(targets: Sequence[Mapping], predictions: Sequence[Mapping]) -> dict[str, float]:
        check_lengths(targets, predictions)
        rows: dict = defaultdict(lambda: ([], []))
        for target, prediction in zip(targets, predictions, strict=True):
            wanted, predicted = rows[target["group"]]
            wanted.append(target["value"])
            predicted.append(prediction["value"])
        return metric(*zip(*rows.values(), strict=True))

    return grouped


def _aligned(targets, predictions) -> list[tuple[list[str], list[str]]]:
    check_lengths(targets, predictions)
    pairs = []
    for target, prediction in zip(targets, predictions, strict=True):
        wanted, predicted = _listed(target), _listed(prediction)[: len(_listed(target))]
        pairs.append((wanted, predicted + [OUTSIDE] * (len(wanted) - len(predicted))))
    return pairs


def _listed(tags: Tags) -> list[str]:
    return tags.split() if isinstance(tags, str) else [tag or OUTSIDE for tag in tags]


def _f1(name: str, hits: int, predicted: int, wanted: int) -> dict[str, float]:
    precision, recall = hits / max(predicted, 1), hits / max(wanted, 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    values = {"precision": precision, "recall": recall, "f1": f1}
    return {f"{name}_{key}": 100.0 * value for key, value in values.items()}
