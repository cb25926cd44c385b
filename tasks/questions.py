"""Questions about a context: blanks around punctuation go in, an answer as the context has it comes
out.

T5 and mT5 read questions with blanks around punctuation, so an answer comes with them too. The
official scripts of SQuAD, XQuAD, MLQA and TyDiQA compare texts as the data sets have them: "3,500"
is one word, "3 , 500" two. An answer is therefore written as its context has it before it is
scored; the right answers are the data set's own.
"""

import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache

Pad = Callable[[str], str]


def answer_of_context(pad: Pad) -> Callable[..., str | list[str]]:
    """SeqIO's postprocessing of questions: a target is the example's list `answers`, a prediction
    is written as the example's `context` has it.

    Args:
      pad: puts blanks between the words of a text, and changes nothing else.
    """

    @lru_cache(maxsize=64)  # the questions of one context follow each other
    def lined_up(context: str) -> tuple[str, list[int]]:
        return _lined_up(context, pad(context))

    def answer_of_context(text: str, example: Mapping, is_target: bool = False):
        if is_target:
            return list(example["answers"])
        return written_as_in(text, example["context"], *lined_up(example["context"]))

    return answer_of_context


def written_as_in(text: str, context: str, plain: str, places: list[int]) -> str:
    """The longest runs of a text's words that stand in `plain`, each as the context has it.

    Texts are compared in NFKC, the form in which SentencePiece writes them. A run may begin or end
    within a word of the context: Chinese has no blanks between words.

    Args:
      plain, places: the padded context in NFKC with single blanks, and where in the context each of
        its characters stands.
    """
    pieces, parts, at = _plain(text).split(), [], 0
    while at < len(pieces):
        end, start = at + 1, -1
        while end <= len(pieces) and (place := plain.find(" ".join(pieces[at:end]))) >= 0:
            end, start = end + 1, place
        if start < 0:
            parts.append(pieces[at])
            at += 1
            continue
        last = start + len(" ".join(pieces[at : end - 1])) - 1
        parts.append(context[places[start] : places[last] + 1])
        at = end - 1
    return " ".join(parts)


def _lined_up(context: str, padded: str) -> tuple[str, list[int]]:
    """`plain` and `places` of a context; see `written_as_in`."""
    plain, places, at = "", [], 0
    for word in padded.split():
        start = context.index(word, at)
        at = start + len(word)
        if written := _plain(word).strip():
            blank = " " if plain else ""
            plain += blank + written
            inside = [start + min(n, len(word) - 1) for n in range(len(written))]
            places += [start] * len(blank) + inside
    return plain, places


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text)
