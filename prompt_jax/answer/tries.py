"""The choices of questions as one trie, within which their answers are written."""

from collections.abc import Callable, Sequence

import numpy as np

from prompt_jax.answer.question import Question
from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import EOS
from prompt_jax.model.trie import Trie, trie_of

Encode = Callable[[str], np.ndarray]  # a text's tokens, EOS included


class Tries:
    """Tries of what may be answered, each made once.

    `separator`: stands between several choices of one answer; choices that have it are several.
    """

    def __init__(self, encode: Encode, separator: str | None):
        self.encode, self.separator = encode, separator
        self._made: dict[tuple, tuple[Trie, dict[tuple[str, ...], int]]] = {}

    def __call__(self, questions: Sequence[Question], rows: int) -> tuple[Trie, np.ndarray]:
        """The trie of all choices of these questions, and int32 [rows] where each begins."""
        sets = tuple(dict.fromkeys(question.choices for question in questions))
        if sets not in self._made:
            labels = [self._labels(choices) for choices in sets]
            tokens = [[self.encode(label)[:-1].tolist() for label in some] for some in labels]
            trie, roots = trie_of(tokens, self._between([x for some in labels for x in some]))
            self._made[sets] = trie, dict(zip(sets, roots, strict=True))
        trie, root_of = self._made[sets]
        roots = np.zeros(rows, np.int32)
        roots[: len(questions)] = [root_of[question.choices] for question in questions]
        return trie, roots

    def _labels(self, choices: Sequence[str]) -> list[str]:
        if self.separator is None:
            return list(choices)
        parts = [part for choice in choices for part in choice.split(self.separator)]
        return list(dict.fromkeys(filter(None, parts)))

    def _between(self, labels: Sequence[str]) -> list[int]:
        """The tokens between two labels; UserError where they depend on which labels these are."""
        if self.separator is None:
            return []
        found = {}
        for first, second in zip(labels, [*labels[1:], labels[0]], strict=True):
            before, after = self.encode(first)[:-1].tolist(), self.encode(second).tolist()
            both = self.encode(f"{first}{self.separator}{second}").tolist()
            middle = both[len(before) : len(both) - len(after)]
            if not middle or both != [*before, *middle, *after]:
                middle = [EOS]
            found[tuple(middle)] = first
        if len(found) > 1 or (EOS,) in found:
            raise UserError(
                f"separator {self.separator!r}",
                f"has other pieces beside {list(found.values())[-1]!r} than alone",
                "take one that is a piece of its own, such as ', '",
            )
        return list(next(iter(found)))
