"""`cldr_name_KIND_LL`: what a territory, a language or a currency is called in a language.

The input is the English name and nothing else, so that the prompt alone says which language is
asked for. `choices` are the thing's names in all thirteen languages of mnano, which differ: the
mode `rank` is right by chance in 8 % and tells whether the right language is written. The names are
Unicode's CLDR (Unicode licence) as Babel (BSD) carries it; a thing is in the same split in all
languages.

`x_gen_names` is every pair of a kind and a language but the currencies in UNSEEN, and
`x_gen_names_unseen` is these: what factorised prompts are for (Vu et al. 2022,
https://arxiv.org/abs/2205.12647, who swap the language's rows).
"""

import hashlib
from functools import lru_cache, partial

import seqio

from prompt_jax.metrics.text import accuracy
from prompt_jax.tasks.cross_lingual import LANGUAGES, UNSEEN, text_beside
from prompt_jax.tasks.quickstart import cldr_names, installed
from prompt_jax.tasks.text import RowsSource, add_task

KINDS = ("territory", "language", "currency")
HELD_BACK = "currency"


def split_of(key: str) -> str:
    """train for six things in ten, validation for one, test for three, by SHA-256."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10
    return "train" if bucket < 6 else "validation" if bucket == 6 else "test"


@lru_cache
def things() -> dict[str, list[str]]:
    """ "kind/CLDR key" -> its names in LANGUAGES, where all of them differ, by key."""
    names = [cldr_names(language) for language in LANGUAGES]
    shared = sorted(set.intersection(*map(set, names)))
    by_key = {key: [of_language[key] for of_language in names] for key in shared}
    return {key: called for key, called in by_key.items() if len(set(called)) == len(called)}


def rows(split: str, *, kind: str, language: str) -> list[dict]:
    at = LANGUAGES.index(language)
    english = LANGUAGES.index("en")
    return [
        {"inputs": called[english], "targets": called[at], "choices": called}
        for key, called in things().items()
        if key.startswith(f"{kind}/") and split_of(key) == split
    ]


def _register(kind: str, language: str) -> str:
    source = RowsSource(
        partial(rows, kind=kind, language=language),
        ("train", "validation", "test"),
        "CLDR names of the installed Babel (Unicode licence, BSD)",
        "Unicode licence, BSD",
        version=installed("Babel"),
    )
    add_task(f"cldr_name_{kind}_{language}", source, [], [accuracy], None)
    return f"cldr_name_{kind}_{language}"


_ALL = {(kind, ll): _register(kind, ll) for kind in KINDS for ll in LANGUAGES}
_UNSEEN = [_ALL[HELD_BACK, ll] for ll in UNSEEN]
_SEEN = [task for task in _ALL.values() if task not in _UNSEEN]
seqio.MixtureRegistry.add("x_gen_names", [(task, 1.0) for task in _SEEN])
seqio.MixtureRegistry.add("x_gen_names_unseen", [(task, 1.0) for task in _UNSEEN])
seqio.MixtureRegistry.add("x_gen_names_and_text", text_beside(_SEEN))
