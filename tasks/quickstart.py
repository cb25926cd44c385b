"""Small real classification sets that installed packages carry, read in place, with no network.

- `vader_polarity`: is a word negative or positive? The lexicon of vaderSentiment (MIT; Hutto and
  Gilbert 2014), every entry rated by ten people from -4 to 4. Only entries of letters are used (no
  emoticons, no slang with digits or punctuation) and only those whose mean is at least 1 away from
  0; `vader_polarity_all` takes every mean but 0.
- `empath_topic`: to which of eight topics does a word belong? Empath's lexicon (MIT; Fast, Chen and
  Bernstein 2016), whose members a crowd has checked. A word of two of the topics is left out.
- `cldr_language`: in which of eight languages is this the name of a territory, a language or a
  currency? Unicode's CLDR (Unicode licence) as Babel (BSD) carries it. A thing is used if its eight
  names differ, so that the languages are balanced.
- `cldr_kind`: what does an English name name: a city, a currency, a language, a script or a
  territory? CLDR, again; names of two kinds are left out.

`quickstart_tasks` mixes the four at one rate.

Words of one family (abandon, abandoned) and names of one thing (Germany, Deutschland) are in the
same split: a tenth of the families each is validation and test, chosen by hash.
"""

import hashlib
import importlib.metadata
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import seqio

from prompt_jax.errors import UserError
from prompt_jax.metrics.text import accuracy
from prompt_jax.tasks.text import RowsSource, add_task

SPLITS = ("train", "validation", "test")
POLARITIES = ("negative", "positive")
TOPICS = (
    "animal",
    "clothing",
    "economics",
    "military",
    "music",
    "plant",
    "religion",
    "sports",
)
LANGUAGES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "pl": "Polish",
    "fi": "Finnish",
    "tr": "Turkish",
    "vi": "Vietnamese",
}
KINDS = ("city", "currency", "language", "script", "territory")
INSTALL = "run pip install 'prompt-jax[quickstart]'"
_ENDING = re.compile(r"(?:e?ful|ingly|edly|ings?|ed|e?ly|ers?|ous|ness|es|e|s|y)$")

# (family, inputs, targets): rows of one family share a split.
Entry = tuple[str, str, str]


def split_of(family: str) -> str:
    """train for eight families in ten, validation and test for one each, by SHA-256."""
    bucket = int.from_bytes(hashlib.sha256(family.encode()).digest()[:4], "big") % 10
    return {0: "validation", 1: "test"}.get(bucket, "train")


def word_family(word: str) -> str:
    """The first five letters of a word without a common English ending.

    >>> word_family("abandon") == word_family("Abandoned"), word_family("loving")
    (True, 'lov')
    """
    stem = _ENDING.sub("", word.lower())
    return (stem if len(stem) >= 3 else word.lower())[:5]


def vader_entries(threshold: float) -> Iterable[Entry]:
    """The words of vaderSentiment's lexicon whose mean rating is not within `threshold` of 0.

    A few words are listed twice, with the same sign; the first counts.
    """
    seen = set()
    lexicon = _vendored("vaderSentiment", "vaderSentiment/vader_lexicon.txt")
    for line in lexicon.read_text(encoding="utf-8").splitlines():
        word, mean = line.split("\t")[0], float(line.split("\t")[1])
        if word.isalpha() and word not in seen and mean != 0 and abs(mean) >= threshold:
            seen.add(word)
            yield word_family(word), word, POLARITIES[mean > 0]


def empath_entries() -> Iterable[Entry]:
    """The words of Empath's TOPICS that belong to one of them only."""
    topics: dict[str, set[str]] = {}
    for line in _vendored("empath", "empath/data/categories.tsv").read_text().splitlines():
        topic, *words = line.split("\t")
        if topic in TOPICS:
            for word in filter(str.isalpha, words):
                topics.setdefault(word, set()).add(topic)
    for word in sorted(topics):
        if len(topics[word]) == 1:
            yield word_family(word), word, next(iter(topics[word]))


def _vendored(package: str, file: str) -> Path:
    """A file of an installed package, which is not imported."""
    try:
        return Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError:
        raise UserError(package, "not installed", INSTALL) from None


def installed(package: str) -> str:
    """The package with its version; a task can be named, not read, where it is not installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package}, not installed"


def cldr_language_entries() -> Iterable[Entry]:
    """Names of things in the eight LANGUAGES, where all eight names differ."""
    names = {language: cldr_names(language) for language in LANGUAGES}
    shared = set.intersection(*(set(of_language) for of_language in names.values()))
    uses = Counter(name for of_language in names.values() for name in set(of_language.values()))
    for key in sorted(shared):
        if all(uses[names[language][key]] == 1 for language in LANGUAGES):
            for language, target in LANGUAGES.items():
                yield key, names[language][key], target


def cldr_names(language: str) -> dict[str, str]:
    """ "kind/CLDR key" -> name in that language, of territories, languages and currencies."""
    locale = _babel().Locale.parse(language)
    tables = {
        "territory": locale.territories,
        "language": locale.languages,
        "currency": locale.currencies,
    }
    return {f"{kind}/{key}": name for kind, table in tables.items() for key, name in table.items()}


def cldr_kind_entries() -> Iterable[Entry]:
    """English names with their kind; a family is the names that begin with the same word."""
    locale = _babel().Locale.parse("en")
    tables = {
        "city": _city_names(locale.time_zones),
        "currency": locale.currencies.values(),
        "language": locale.languages.values(),
        "script": locale.scripts.values(),
        "territory": locale.territories.values(),
    }
    kinds: dict[str, set[str]] = {}
    for kind, names in tables.items():
        for name in names:
            kinds.setdefault(name, set()).add(kind)
    for name in sorted(kinds):
        if len(kinds[name]) == 1:
            yield name.split()[0].lower(), name, next(iter(kinds[name]))


def _city_names(time_zones: Mapping) -> set[str]:
    """The exemplar city of every time zone: CLDR's name, else the end of the zone's identifier."""
    zones = [zone for zone in _babel().get_global("zone_territories") if "Etc/" not in zone]
    named = {zone: data["city"] for zone, data in time_zones.items() if "city" in data}
    last = {zone: zone.split("/")[-1].replace("_", " ") for zone in zones if "/" in zone}
    return set((last | {zone: city for zone, city in named.items() if zone in last}).values())


def _babel() -> ModuleType:
    try:
        from babel import core
    except ImportError:
        raise UserError("Babel", "not installed", INSTALL) from None
    return core


def read_rows(entries: Callable[[], Iterable[Entry]], split: str) -> list[dict]:
    """Rows with `inputs`, `targets`, `family` of one split, in the source's order."""
    return [
        {"inputs": inputs, "targets": targets, "family": family}
        for family, inputs, targets in entries()
        if split_of(family) == split
    ]


def register(
    name: str,
    entries: Callable[[], Iterable[Entry]],
    choices: Iterable[str],
    origin: tuple[str, str, str],
) -> None:
    """A task of words or names; `origin`: what they are, of which package, under which licence."""
    what, package, licence = origin
    source = RowsSource(
        partial(read_rows, entries),
        SPLITS,
        f"{what} of the installed {package} ({licence})",
        licence,
        version=installed(package),
    )
    add_task(name, source, [], [accuracy], tuple(choices))


_VADER = ("lexicon", "vaderSentiment", "MIT")
_EMPATH = ("lexicon", "empath", "MIT")
_CLDR = ("CLDR names", "Babel", "Unicode licence, BSD")
register("vader_polarity", partial(vader_entries, 1.0), POLARITIES, _VADER)
register("vader_polarity_all", partial(vader_entries, 0.0), POLARITIES, _VADER)
register("empath_topic", empath_entries, TOPICS, _EMPATH)
register("cldr_language", cldr_language_entries, LANGUAGES.values(), _CLDR)
register("cldr_kind", cldr_kind_entries, KINDS, _CLDR)
seqio.MixtureRegistry.add(
    "quickstart_tasks",
    ["vader_polarity", "empath_topic", "cldr_language", "cldr_kind"],
    default_rate=1.0,
)
