"""`mnano_multitask`: the third stage of the multilingual backbone `mnano`.

Half of it is nano's mixture (English) with rows about one word (`nano_kinds`) and more plain text.
A quarter translates between English and the other languages
of mnano, both ways, over NTREX's aligned lines; a quarter chooses the English word of such a line's
meaning. So labels are learned in English alone, and what is tested in another language is carried
there by the shared parts.
"""

from collections.abc import Callable, Iterator
from functools import partial

import seqio

from prompt_jax.tasks.nano_choose import meaning_rows
from prompt_jax.tasks.nano_kinds import entity_rows, kind_rows, related_rows
from prompt_jax.tasks.nano_mixture import (
    MEMBERS,
    PANX,
    TEXT,
    TRAIN,
    WIKI,
    Member,
    of,
    rates,
    records,
    register,
)
from prompt_jax.tasks.nano_text import Row, corpus_file, ntrex, translate_rows
from prompt_jax.tasks.text import RowsSource, add_task

LANGUAGES = ("de", "es", "ru", "ar", "hi", "zh", "ja", "ko", "el", "tr", "vi", "sw")  # beside en
MOST = 160  # characters of a line


def _rows(split: str, *, read: Callable[[], Iterator[Row]]) -> list[Row]:
    return list(read())


def _register(name: str, source: str, target: str, read: Callable[[], Iterator[Row]]) -> str:
    what = f"corpus/multi/{{{source},{target}}}/ntrex.txt.xz (NTREX-128)"
    where = lambda split: corpus_file(ntrex(source))  # noqa: E731
    rows = RowsSource(
        partial(_rows, read=read),
        ("train",),
        what,
        licence="CC BY-SA 4.0",
        where=where,
        version="NTREX-128",
    )
    add_task(name, rows, [], [], None)
    return name


PAIRS = [
    _register(f"mnano_{one}_{other}", one, other, partial(translate_rows, one, other, MOST))
    for ll in LANGUAGES
    for one, other in (("en", ll), (ll, "en"))
]
MEANINGS = [
    _register(f"mnano_meaning_{ll}", ll, "en", partial(meaning_rows, ll, MOST)) for ll in LANGUAGES
]

NAMED = (("person", "organization", "location", "none"), ("people", "groups", "places", "words"))
TEXT_SHARE = 0.2
ABOUT_A_WORD = {
    "class": Member(8000, lambda s: kind_rows(TEXT, 8000), 40, TRAIN, WIKI),
    "entity": Member(19998, lambda s: entity_rows(records(PANX, s)), 40, TRAIN, of(PANX), NAMED),
    "related": Member(4000, lambda s: related_rows(TEXT, 4000), 40, TRAIN, WIKI),
}
_labelled = {name: member for name, member in MEMBERS.items() if name != "text"}
ENGLISH = {**_labelled, **ABOUT_A_WORD, "text": MEMBERS["text"]}

register(ABOUT_A_WORD)
_english = [(f"nano_{name}", rate) for name, rate in rates(ENGLISH, TEXT_SHARE).items()]
_quarter = sum(rate for _, rate in _english) / 2
seqio.MixtureRegistry.add(
    "mnano_multitask",
    [
        *_english,
        *((name, _quarter / len(PAIRS)) for name in PAIRS),
        *((name, _quarter / len(MEANINGS)) for name in MEANINGS),
    ],
)
