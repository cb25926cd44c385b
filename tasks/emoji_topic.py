"""`emoji_topic_LL`: to which of nine groups of emoji does this name belong, in a language?

The names are Unicode's CLDR as the package emoji (BSD) carries them, the same emoji in every
language, so that a prompt trained on the English ones can be scored on the others; the groups are
those of GitHub's gemoji as the package emojis (MIT) carries them. "weißes herz" is of `smileys`.
Variants by skin tone are left out. Emoji of one family (man and woman cook) are in the same split,
and in all languages in that one: what is scored was not trained on in English either.
"""

import re
from collections.abc import Iterable
from functools import partial
from types import ModuleType

from prompt_jax.errors import UserError
from prompt_jax.tasks.quickstart import INSTALL, Entry, register, word_family

GROUPS = {
    "Smileys & Emotion": "smileys",
    "People & Body": "people",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
    "Flags": "flags",
}
LANGUAGES = ("en", "ar", "de", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
SKINS = re.compile("[\U0001f3fb-\U0001f3ff]")
GENDER = {"man", "men", "woman", "women", "person", "people"}


def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        import emoji
        from emojis import db
    except ImportError as error:
        raise UserError(error.name, "not installed", INSTALL) from None
    return emoji, db


def _plain(name: str) -> str:
    """ ":weißes_herz:" as words."""
    return name.strip(":").replace("_", " ")


def family(name: str) -> str:
    """What the English names of one thing share: the stem of their first word without gender.

    >>> family("woman cook") == family("cook"), family("man cook")
    (True, 'cook')
    """
    words = [word for word in re.findall(r"\w+", name) if word.lower() not in GENDER]
    return word_family(words[0]) if words else name


def entries(language: str) -> Iterable[Entry]:
    """The names of the emoji that have a group, in the package's order."""
    emoji, db = _packages()
    bare = lambda text: text.replace("\ufe0f", "")  # noqa: E731  # "as a picture", which some omit
    groups = {
        bare(found.emoji): group
        for category, group in GROUPS.items()
        for found in db.get_emojis_by_category(category)
    }
    if language != "en":
        emoji.config.load_language(language)
    for text, names in emoji.EMOJI_DATA.items():
        group = groups.get(bare(text))
        qualified = names["status"] == emoji.STATUS["fully_qualified"]
        if group and qualified and language in names and not SKINS.search(text):
            yield family(_plain(names["en"])), _plain(names[language]), group


_ORIGIN = ("CLDR names of emoji", "emoji", "Unicode licence, BSD; groups: emojis, MIT")
for _language in LANGUAGES:
    register(f"emoji_topic_{_language}", partial(entries, _language), GROUPS.values(), _ORIGIN)
