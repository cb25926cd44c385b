"""WikiLingua (Ladhak et al. 2020) as GEM 1.1 hands it out, for generation across languages.

`wiki_lingua_LL` summarises an article in its own language, and `wiki_lingua_LL_en` writes the
English summary of an article in another. The mixture `wiki_lingua` trains on English alone and is
scored in every language, which is the zero-shot setting of Vu et al. 2022
(https://arxiv.org/abs/2205.12647). Scores are ROUGE over the pieces of the backbone's vocabulary,
chrF, and the share of outputs in the language that was asked for.
"""

from collections.abc import Callable, Iterator

import seqio

from prompt_jax.metrics.generation import chrf, language_id, sp_rouge
from prompt_jax.tasks.layouts import Record, pick
from prompt_jax.tasks.rows import Row, register_rows, tfds_only
from prompt_jax.tasks.text import PIECE_METRICS

LANGUAGES = {
    "ar": "arabic",
    "cs": "czech",
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fr": "french",
    "hi": "hindi",
    "id": "indonesian",
    "it": "italian",
    "ja": "japanese",
    "ko": "korean",
    "nl": "dutch",
    "pt": "portuguese",
    "ru": "russian",
    "th": "thai",
    "tr": "turkish",
    "vi": "vietnamese",
    "zh": "chinese",
}
# English-aligned pairs of train, validation and test in GEM's release.
SIZES = {
    "ar": (20441, 2919, 5841),
    "cs": (5033, 718, 1438),
    "de": (40839, 5833, 11669),
    "en": (99020, 13823, 28614),
    "es": (79212, 11316, 22632),
    "fr": (44556, 6364, 12731),
    "hi": (6942, 991, 1984),
    "id": (33237, 4747, 9497),
    "it": (35661, 5093, 10189),
    "ja": (8853, 1264, 2530),
    "ko": (8524, 1216, 2436),
    "nl": (21866, 3123, 6248),
    "pt": (57159, 8165, 16331),
    "ru": (37028, 5288, 10580),
    "th": (10325, 1475, 2950),
    "tr": (3148, 449, 900),
    "vi": (13707, 1957, 3917),
    "zh": (13211, 1886, 3775),
}
SPLITS = ("train", "validation", "test")


def summary(source: str, target: str) -> Callable[[Record], Iterator[Row]]:
    """The form of an article in one language and its summary in the same or another."""

    def form(record: Record) -> Iterator[Row]:
        article = pick(record["source_aligned"], source, str)
        yield {"inputs": article, "targets": pick(record["target_aligned"], target, str)}

    return form


def _register(name: str, source: str, target: str, splits: tuple[str, ...]) -> None:
    rows: dict[str, int] = dict(zip(SPLITS, SIZES[source], strict=True))
    data = tfds_only(
        f"gem/wiki_lingua_{LANGUAGES[source]}_{source}:1.1.0",
        {split: rows[split] for split in splits},
        "CC BY-NC-SA 3.0",
    )
    prefix = f"summarize {source} to {target}:"
    register_rows(name, data, summary(source, target), [chrf, language_id(target)], prefix)
    for task in (name, f"taskless_{name}"):
        PIECE_METRICS[task] = (sp_rouge,)


for _language in LANGUAGES:
    _splits = SPLITS if _language == "en" else SPLITS[1:]
    _register(f"wiki_lingua_{_language}", _language, _language, _splits)
    if _language != "en":
        _register(f"wiki_lingua_{_language}_en", _language, "en", SPLITS)
seqio.MixtureRegistry.add("wiki_lingua", [(f"wiki_lingua_{name}", 1.0) for name in LANGUAGES])
