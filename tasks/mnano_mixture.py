"""`mnano_multitask`: the third stage of the multilingual backbone `mnano`.

Half of it is nano's mixture (English); the rest goes between English and the other languages of
mnano, both ways, over NTREX's aligned lines. So labels are learned in English alone, and what is
tested in another language is carried there by the shared parts.
"""

from functools import partial

import seqio

from prompt_jax.tasks.nano_mixture import rates
from prompt_jax.tasks.nano_text import Row, corpus_file, ntrex, translate_rows
from prompt_jax.tasks.text import RowsSource, add_task

LANGUAGES = ("de", "es", "ru", "ar", "hi", "zh", "ja", "ko", "el", "tr", "vi", "sw")  # beside en
MOST = 160  # characters of a line


def _rows(split: str, *, source: str, target: str) -> list[Row]:
    return list(translate_rows(source, target, MOST))


def _register(source: str, target: str) -> str:
    name = f"mnano_{source}_{target}"
    what = f"corpus/multi/{{{source},{target}}}/ntrex.txt.xz (NTREX-128)"
    read = partial(_rows, source=source, target=target)
    where = lambda split: corpus_file(ntrex(source))  # noqa: E731
    source_of_rows = RowsSource(
        read, ("train",), what, licence="CC BY-SA 4.0", where=where, version="NTREX-128"
    )
    add_task(name, source_of_rows, [], [], None)
    return name


PAIRS = [_register(*pair) for ll in LANGUAGES for pair in (("en", ll), (ll, "en"))]
_english = [(f"nano_{name}", rate) for name, rate in rates().items()]
_each = sum(rate for _, rate in _english) / len(PAIRS)
seqio.MixtureRegistry.add("mnano_multitask", [*_english, *((name, _each) for name in PAIRS)])
