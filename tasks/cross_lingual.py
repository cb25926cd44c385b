"""Mixtures over languages for prompts that cross them, and plain text without labels.

In the thirteen languages of mnano, less those that a data set does not have:

- `cross_lingual_pos`: parts of speech of a word beside its neighbours, in every language. Training
  on `xtreme_udpos_word_en` and scoring this is zero-shot.
- `x_gen_tags`: names (PAN-X) in every language and parts of speech in all but three, UNSEEN, whose
  pair with parts of speech only factorised prompts have; `x_gen_tags_unseen` is these pairs. PAN-X
  and most treebanks have no labelled `train` here but English's: train on `validation`.
- `x_gen_text`: half of a line to its other half, `unlabelled_LL`, the text that Vu et al. 2022
  (https://arxiv.org/abs/2205.12647) mix in against forgetting a language; `x_gen_tags_and_text` has
  one row of it in ten. NTREX-128 lies in the data folder's `corpus`.
"""

from collections.abc import Iterator
from functools import partial

import seqio

from prompt_jax.tasks import xtreme_sets as sets
from prompt_jax.tasks.nano_text import Row, corpus_file, ntrex, read_corpus
from prompt_jax.tasks.text import RowsSource, add_task

LANGUAGES = ("en", "de", "es", "ru", "ar", "hi", "zh", "ja", "ko", "el", "tr", "vi", "sw")
UNSEEN = ("hi", "tr", "vi")  # other families and scripts than what parts of speech are learned in
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


POS = [ll for ll in LANGUAGES if ll in sets.UDPOS_SIZES]
SEEN = [f"xtreme_udpos_word_{ll}" for ll in POS if ll not in UNSEEN]
TAGS = [f"xtreme_panx_word_{ll}" for ll in LANGUAGES if ll in sets.PANX_SIZES] + SEEN
TEXTS = [_register_text(ll) for ll in LANGUAGES]
_text_rate = TEXT_SHARE / (1 - TEXT_SHARE) * len(TAGS) / len(TEXTS)
for _name, _tasks in {
    "cross_lingual_pos": [(f"xtreme_udpos_word_{ll}", 1.0) for ll in POS],
    "x_gen_tags": [(task, 1.0) for task in TAGS],
    "x_gen_tags_unseen": [(f"xtreme_udpos_word_{ll}", 1.0) for ll in UNSEEN],
    "x_gen_text": [(task, 1.0) for task in TEXTS],
    "x_gen_tags_and_text": [(t, 1.0) for t in TAGS] + [(t, _text_rate) for t in TEXTS],
}.items():
    seqio.MixtureRegistry.add(_name, _tasks)
