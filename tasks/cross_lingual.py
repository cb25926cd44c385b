"""Mixtures over languages for prompts that cross them, and plain text without labels.

In the thirteen languages of mnano, less those that a data set does not have:

- `cross_lingual_pos`: parts of speech of a word beside its neighbours, in every language. Training
  on `xtreme_udpos_word_en` and scoring this is zero-shot.
- `x_gen_text`: half of a line to its other half, `unlabelled_LL`, the text that Vu et al. 2022
  (https://arxiv.org/abs/2205.12647) mix in against forgetting a language: one row in ten of
  `x_gen_names_and_text` (`cldr_names.py`). NTREX-128 lies in the data folder's `corpus`.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import seqio

import prompt_jax.tasks.xtreme  # noqa: F401 (a mixture is of its tasks)
from prompt_jax.tasks import xtreme_sets as sets
from prompt_jax.tasks.nano_text import Row, corpus_file, ntrex, read_corpus
from prompt_jax.tasks.text import RowsSource, add_task

LANGUAGES = ("en", "de", "es", "ru", "ar", "hi", "zh", "ja", "ko", "el", "tr", "vi", "sw")
UNSEEN = ("hi", "tr", "vi")  # of which a task never has training rows
MOST = 160  # characters of a line
LEAST = 20
TEXT_SHARE = 0.1


def unlabelled_rows(language: str) -> Iterator[Row]:
    """The first half of a line to the rest, cut at a blank where there is one."""
    for line in read_corpus(ntrex(language)):
        if line and LEAST <= len(line) <= MOST:
            middle = len(line) // 2
            cut = line.find(" ", middle) if " " in line[middle:] else middle
            yield {"inputs": line[:cut].strip(), "targets": line[cut:].strip()}


def _rows(split: str, *, language: str) -> list[Row]:
    return list(unlabelled_rows(language))


def _register_text(language: str) -> str:
    source = RowsSource(
        partial(_rows, language=language),
        ("train", "validation"),
        f"corpus/{ntrex(language)} (NTREX-128)",
        licence="CC BY-SA 4.0",
        where=lambda split: corpus_file(ntrex(language)),
        version="NTREX-128",
    )
    add_task(f"unlabelled_{language}", source, [], [], None)
    return f"unlabelled_{language}"


TEXTS = [_register_text(ll) for ll in LANGUAGES]
POS = [f"xtreme_udpos_word_{ll}" for ll in LANGUAGES if ll in sets.UDPOS_SIZES]
seqio.MixtureRegistry.add("cross_lingual_pos", POS, default_rate=1.0)
seqio.MixtureRegistry.add("x_gen_text", TEXTS, default_rate=1.0)


def text_beside(tasks: Sequence[str]) -> list[tuple[str, float]]:
    """The tasks at a rate of 1 each, and text without labels in TEXT_SHARE of all rows."""
    rate = TEXT_SHARE / (1 - TEXT_SHARE) * len(tasks) / len(TEXTS)
    return [(task, 1.0) for task in tasks] + [(text, rate) for text in TEXTS]
