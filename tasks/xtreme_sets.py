"""Where XTREME's data are: languages, published sizes, official files and TFDS builders.

Below the data folder the files lie as XTREME's own download script leaves them
(`xtreme/xnli/dev-sw.tsv`); English training sets that other benchmarks share may lie with those
(`glue/MNLI`, `squad`, `superglue/COPA`). Every function here is (language) -> {split of the task:
a DataSet of one split}, whose key is TFDS's name of that split; a setting that a language does not
have is {}.
"""

from collections.abc import Callable
from functools import partial

from prompt_jax.tasks.glue import MNLI_COLUMNS
from prompt_jax.tasks.layouts import (
    CONLLU,
    JSONL,
    SQUAD,
    TAGGED,
    TSV,
    Record,
    named_tags,
    quoted,
    without_header,
)
from prompt_jax.tasks.official import DataSet, File
from prompt_jax.tasks.xtreme_source import XTREME, Parts, Source


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TRANSLATED = "machine translations by XTREME 1.0"

# ---- XNLI: Conneau et al. 2018, https://arxiv.org/abs/1809.05053 ----

XNLI_LANGUAGES = _words("ar bg de el en es fr hi ru sw th tr ur vi zh")
XNLI_SOURCE = Source(
    "xtreme/xnli",
    XTREME,
    "CC BY-NC 4.0",
    "XNLI 1.0",
    "test files need the labels that XTREME's leave out",
)
MULTINLI = Source(
    "xtreme/xnli", XTREME, "OANC, CC BY 3.0 and CC BY-SA 3.0 by genre", "MultiNLI 1.0"
)
NLI_ROWS = quoted(without_header("premise", "hypothesis", "label"))


def _in(language: str, record: Record) -> Record:
    """A row of TFDS's XNLI in one of its languages."""
    said = record["hypothesis"]
    hypothesis = said["translation"][said["language"].index(language)]
    return {**record, "premise": record["premise"][language], "hypothesis": hypothesis}


def xnli(language: str) -> Parts:
    part = partial(XNLI_SOURCE.part, tfds="xnli:1.1.0", from_tfds=partial(_in, language))
    parts = {
        "validation": part("validation", File(f"dev-{language}.tsv", NLI_ROWS), rows=2490),
        "test": part("test", File(f"test-{language}.tsv", NLI_ROWS), rows=5010),
    }
    if language != "en":
        return parts
    files = File("train-en.tsv", NLI_ROWS), File("../../glue/MNLI/train.tsv", TSV, MNLI_COLUMNS)
    return {"train": MULTINLI.part("train", *files, tfds="multi_nli:1.1.0", rows=392702)} | parts


def xnli_translated(language: str) -> Parts:
    if language == "en":
        return {}
    source = Source("tfds", XTREME, MULTINLI.licence, TRANSLATED)
    form = partial(_in, language)
    train = source.part("train", tfds="xtreme_xnli:1.1.0", rows=392570, from_tfds=form)
    return {"train": train} | xnli(language)


# ---- PAWS-X: Yang et al. 2019, https://arxiv.org/abs/1908.11828 ----

PAWSX_LANGUAGES = _words("de en es fr ja ko zh")
PAWSX_SOURCE = Source("xtreme/pawsx", XTREME, "free for any purpose (Google)", "PAWS-X 1.0")
PAWS_SOURCE = Source(
    "xtreme/pawsx",
    XTREME,
    "free for any purpose (Google)",
    "PAWS-Wiki 1.0",
    "where train is absent, the 3989 pairs of PAWS-Wiki's dev set that PAWS-X "
    "does not hold are read from train_substitute-en.tsv",
)
PAIR_ROWS = quoted(without_header("sentence1", "sentence2", "label"), times=2)
PAWSX_ROWS = quoted(TSV)


def pawsx(language: str) -> Parts:
    def files(split: str, official: str) -> tuple[File, ...]:
        return (
            File(f"{split}-{language}.tsv", PAIR_ROWS),
            File(f"official/{official}-{language}.tsv", PAWSX_ROWS),
            File(f"x-final/{language}/{official}.tsv", PAWSX_ROWS),
        )

    part = partial(PAWSX_SOURCE.part, tfds=f"paws_x_wiki/{language}:1.0.0", rows=2000)
    parts = {
        "validation": part("validation", *files("dev", "dev_2k")),
        "test": part("test", *files("test", "test_2k")),
    }
    if language != "en":
        return parts
    train = PAWS_SOURCE.part(
        "train",
        *files("train", "train"),
        File("train_substitute-en.tsv", PAIR_ROWS),
        tfds="paws_x_wiki/en:1.0.0",
        rows=49401,
    )
    return {"train": train} | parts


def pawsx_translated(language: str) -> Parts:
    if language == "en":
        return {}
    source = Source("tfds", XTREME, PAWSX_SOURCE.licence, TRANSLATED)
    train = source.part("train", tfds=f"xtreme_pawsx/{language}:1.0.0", rows=49401)
    return {"train": train} | pawsx(language)


# ---- UDPOS: Universal Dependencies 2.5, Nivre et al. 2018 ----

UDPOS_SIZES: dict[str, tuple[int | None, int | None, int]] = {
    "af": (1315, 194, 425),
    "ar": (6075, 909, 1680),
    "bg": (8907, 1115, 1116),
    "de": (166849, 19233, 22458),
    "el": (28152, 2559, 2809),
    "en": (21253, 3974, 5440),
    "es": (28492, 3054, 3147),
    "et": (25749, 3125, 3760),
    "eu": (5396, 1798, 1799),
    "fa": (4798, 599, 600),
    "fi": (27198, 3239, 4422),
    "fr": (47308, 5979, 9465),
    "he": (5241, 484, 491),
    "hi": (13304, 1659, 2684),
    "hu": (910, 441, 449),
    "id": (4477, 559, 1557),
    "it": (29685, 2278, 3518),
    "ja": (7125, 511, 2372),
    "kk": (31, None, 1047),
    "ko": (27410, 3016, 4276),
    "mr": (373, 46, 47),
    "nl": (18051, 1394, 1471),
    "pt": (17992, 1770, 2681),
    "ru": (67435, 9960, 11336),
    "ta": (400, 80, 120),
    "te": (1051, 131, 146),
    "th": (None, None, 1000),
    "tl": (None, None, 55),
    "tr": (3664, 988, 4785),
    "ur": (4043, 552, 535),
    "vi": (1400, 800, 800),
    "yo": (None, None, 100),
    "zh": (18998, 3038, 5528),
}
UPOS = _words("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X")
UDPOS_SOURCE = Source(
    "xtreme/udpos",
    XTREME,
    "by treebank, mostly CC BY-SA; some CC BY-NC-SA",
    "Universal Dependencies 2.5",
    "files of another release have other sizes",
)
UD_NAMES = {"train": "train", "validation": "dev", "test": "test"}
# TFDS 4.9 has the two names exchanged: its xtreme_pos_ta is Tagalog, its xtreme_pos_tl Tamil.
UD_EXCHANGED = {"ta": "tl", "tl": "ta"}


def _upos(record: Record) -> Record:
    tags = [UPOS[i] if i < len(UPOS) else "X" for i in record["upos"]]  # "_", the last, is none
    return {"words": record["tokens"], "tags": tags}


UD_LANGUAGES = dict(
    zip(
        UDPOS_SIZES,
        _words(
            "Afrikaans Arabic Bulgarian German Greek English Spanish Estonian Basque Persian "
            "Finnish French Hebrew Hindi Hungarian Indonesian Italian Japanese Kazakh Korean "
            "Marathi Dutch "
            "Portuguese Russian Tamil Telugu Thai Tagalog Turkish Urdu Vietnamese Yoruba Chinese"
        ),
        strict=True,
    )
)


def _udpos(language: str) -> Parts:
    def files(name: str) -> tuple[File, ...]:
        treebanks = f"UD_{UD_LANGUAGES[language]}-*/*-ud-{name}.conllu"
        return (
            File(f"{name}-{language}.tsv", TAGGED),
            File(f"../../ud-treebanks-v2.5/{treebanks}", CONLLU),
        )

    tfds = f"xtreme_pos/xtreme_pos_{UD_EXCHANGED.get(language, language)}:1.0.0"
    part = partial(UDPOS_SOURCE.part, tfds=tfds, from_tfds=_upos)
    sizes = zip(UD_NAMES.items(), UDPOS_SIZES[language], strict=True)
    return {
        split: part(name, *files(name), rows=rows)
        for (split, name), rows in sizes
        if rows is not None
    }


# ---- PAN-X: WikiANN as Rahimi et al. 2019 split it, https://aclanthology.org/P19-1015 ----

PANX_SIZES: dict[str, tuple[int, int]] = {  # train; validation and test
    language: sizes
    for sizes, languages in {
        (20000, 10000): "ar bg de el en es fa fi fr he hu id it ja ko nl pt ru th tr vi zh",
        (15000, 10000): "et",
        (10000, 10000): "eu ka",
        (20000, 1000): "ms ur",
        (15000, 1000): "ta",
        (10000, 1000): "bn ml tl",
        (5000, 1000): "af hi mr",
        (1000, 1000): "kk sw te",
        (100, 100): "jv my yo",
    }.items()
    for language in languages.split()
}
PANX_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
PANX_SOURCE = Source(
    "xtreme/panx",
    XTREME,
    "CC BY-SA (Wikipedia)",
    "WikiANN in Rahimi's splits",
    "test files need the tags that XTREME's leave out",
)


def _wikiann(record: Record) -> Record:
    return {"words": record["tokens"], "tags": [PANX_TAGS[i] for i in record["tags"]]}


def _panx(language: str) -> Parts:
    part = partial(PANX_SOURCE.part, tfds=f"wikiann/{language}:1.0.0", from_tfds=_wikiann)
    train, other = PANX_SIZES[language]
    tagged = named_tags(f"{language}:")
    return {
        "train": part("train", File(f"train-{language}.tsv", tagged), rows=train),
        "validation": part("validation", File(f"dev-{language}.tsv", tagged), rows=other),
        "test": part("test", File(f"test-{language}.tsv", tagged), rows=other),
    }


def _zero_shot(parts: Callable[[str], Parts], language: str) -> Parts:
    """Training data in English alone."""
    chosen = parts(language)
    return chosen if language == "en" else {s: data for s, data in chosen.items() if s != "train"}


def _in_language(parts: Callable[[str], Parts], language: str) -> Parts:
    """Training data in the language itself, if there are some; English's are the zero-shot's."""
    chosen = parts(language)
    return chosen if language != "en" and "train" in chosen else {}


udpos, udpos_in_language = partial(_zero_shot, _udpos), partial(_in_language, _udpos)
panx, panx_in_language = partial(_zero_shot, _panx), partial(_in_language, _panx)

# ---- XQuAD, MLQA, TyDiQA-GoldP, and SQuAD 1.1, on which the first two train ----

SQUAD_SOURCE = Source("xtreme/squad", XTREME, "CC BY-SA 4.0", "SQuAD 1.1")
XQUAD_LANGUAGES = _words("ar de el en es hi ru th tr vi zh")
XQUAD_SOURCE = Source(
    "xtreme/xquad", "https://github.com/google-deepmind/xquad", "CC BY-SA 4.0", "XQuAD 1.1"
)
MLQA_SIZES = {
    "ar": (517, 5335),
    "de": (512, 4517),
    "en": (1148, 11590),
    "es": (500, 5253),
    "hi": (507, 4918),
    "vi": (511, 5495),
    "zh": (504, 5137),
}
MLQA_SOURCE = Source(
    "xtreme/mlqa",
    "https://github.com/facebookresearch/MLQA",
    "CC BY-SA 3.0",
    "MLQA 1.0",
    "question and context in one language",
)


def _squad(split: str, name: str, rows: int) -> DataSet:
    files = File(f"{name}-v1.1.json", SQUAD), File(f"../../squad/{name}-v1.1.json", SQUAD)
    return SQUAD_SOURCE.part(split, *files, tfds="squad/v1.1:3.0.0", rows=rows)


def _translated_squad(language: str) -> Parts:
    source = Source("tfds", XTREME, SQUAD_SOURCE.licence, TRANSLATED)
    part = partial(source.part, tfds=f"xquad/{language}:3.0.0")
    return {"train": part("translate-train"), "validation": part("translate-dev")}


def xquad(language: str) -> Parts:
    file = File(f"xquad.{language}.json", SQUAD)
    test = XQUAD_SOURCE.part("test", file, tfds=f"xquad/{language}:3.0.0", rows=1190)
    if language != "en":
        return {"test": test}
    train, dev = _squad("train", "train", 87599), _squad("validation", "dev", 10570)
    return {"train": train, "validation": dev, "test": test}


def xquad_translated(language: str) -> Parts:
    return {} if language == "en" else _translated_squad(language) | xquad(language)


def mlqa(language: str) -> Parts:
    def part(split: str, name: str, rows: int) -> DataSet:
        path = f"MLQA_V1/{name}/{name}-context-{language}-question-{language}.json"
        tfds = f"mlqa/{language}:1.0.0"
        return MLQA_SOURCE.part(split, File(path, SQUAD), tfds=tfds, rows=rows)

    dev, test = MLQA_SIZES[language]
    parts = {"validation": part("validation", "dev", dev), "test": part("test", "test", test)}
    return {"train": _squad("train", "train", 87599)} | parts if language == "en" else parts


def mlqa_translated(language: str) -> Parts:
    return {} if language == "en" else _translated_squad(language) | mlqa(language)


TYDIQA_SIZES = {
    "ar": ("arabic", 14805, 921),
    "bn": ("bengali", 2390, 113),
    "en": ("english", 3696, 440),
    "fi": ("finnish", 6855, 782),
    "id": ("indonesian", 5702, 565),
    "ko": ("korean", 1625, 276),
    "ru": ("russian", 6490, 812),
    "sw": ("swahili", 2755, 499),
    "te": ("telugu", 5563, 669),
}
TYDIQA_SOURCE = Source(
    "xtreme/tydiqa",
    "https://github.com/google-research-datasets/tydiqa",
    "Apache-2.0",
    "TyDiQA-GoldP 1.1",
    "XTREME tests on its dev set, which is validation here",
)
GOLDP = "tydi_qa/goldp:3.0.0"


def _tydiqa(language: str) -> Parts:
    name, train, dev = TYDIQA_SIZES[language]

    def files(split: str) -> tuple[File, ...]:
        file = f"tydiqa.goldp.{language}.{split}.json"
        whole = f"tydiqa-goldp-v1.1-{split}"
        return (
            File(f"{whole}/{file}", SQUAD),
            File(f"{split}/{file}", SQUAD),
            File(f"{whole}.json", SQUAD, keep=lambda folder: lambda record: not other(record)),
        )

    def other(record: Record) -> bool:
        return not record["id"].startswith(f"{name}-")

    def marked(record: Record) -> Record:
        return {**record, "left_out": other(record)}

    part = partial(TYDIQA_SOURCE.part, tfds=GOLDP)
    return {
        "train": part("train", *files("train"), rows=train, from_tfds=marked),
        "validation": part(f"validation-{language}", *files("dev"), rows=dev),
    }


tydiqa, tydiqa_in_language = partial(_zero_shot, _tydiqa), partial(_in_language, _tydiqa)


def tydiqa_translated(language: str) -> Parts:
    if language == "en":
        return {}
    source = Source("tfds", XTREME, TYDIQA_SOURCE.licence, TRANSLATED)
    return {"train": source.part(f"translate-train-{language}", tfds=GOLDP)} | tydiqa(language)


# ---- XCOPA: Ponti et al. 2020, https://aclanthology.org/2020.emnlp-main.185 (XTREME-R) ----

XCOPA_LANGUAGES = _words("en et ht id it qu sw ta th tr vi zh")
XCOPA_SOURCE = Source(
    "xtreme/xcopa", "https://github.com/cambridgeltl/xcopa", "CC BY 4.0", "XCOPA 1.0"
)
COPA_SOURCE = Source(
    "superglue/COPA",
    "https://super.gluebenchmark.com/tasks",
    "BSD-2-Clause",
    "SuperGLUE v2",
    "its test set has no labels",
)


def xcopa(language: str) -> Parts:
    if language == "en":
        part = partial(COPA_SOURCE.part, tfds="super_glue/copa:1.0.2")
        return {
            "train": part("train", File("train.jsonl", JSONL), rows=400),
            "validation": part("validation", File("val.jsonl", JSONL), rows=100),
        }
    sizes = {"validation": ("val", 100), "test": ("test", 500)}
    return {
        split: XCOPA_SOURCE.part(
            split, File(f"{language}/{name}.{language}.jsonl", JSONL), rows=rows
        )
        for split, (name, rows) in sizes.items()
    }
