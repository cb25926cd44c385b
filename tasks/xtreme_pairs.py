"""BUCC and Tatoeba: sentences whose translations are to be found among others.

Neither has a text to write: evaluate Tatoeba with the mode `retrieve` (accuracy of the nearest
English sentence; sentences are compared as text, so that an equal one counts) and BUCC with the
mode `mine`, which scores all its foreign sentences against all its English ones.
"""

from etils import epath

from prompt_jax.errors import UserError
from prompt_jax.tasks.layouts import matched, without_header
from prompt_jax.tasks.official import DataSet, File, find_path, locate, read_records, read_tfds
from prompt_jax.tasks.rows import Row
from prompt_jax.tasks.xtreme_source import XTREME, Parts, Source

BUCC_LANGUAGES = ("de", "fr", "ru", "zh")
BUCC_SOURCE = Source(
    "xtreme/bucc2018",
    XTREME,
    "none stated; Wikipedia and News Commentary",
    "BUCC 2018",
    "sample set and training set with gold pairs; TFDS's bucc has no other sentences",
)
BUCC_ROWS = without_header("id", "text")


def bucc(language: str) -> Parts:
    names = {"validation": "dev", "test": "test"}
    return {
        split: BUCC_SOURCE.part(split, File(f"{language}-en.{name}.{language}", BUCC_ROWS))
        for split, name in names.items()
    }


TATOEBA_LANGUAGES = {
    "af": "afr",
    "ar": "ara",
    "bg": "bul",
    "bn": "ben",
    "de": "deu",
    "el": "ell",
    "es": "spa",
    "et": "est",
    "eu": "eus",
    "fa": "pes",
    "fi": "fin",
    "fr": "fra",
    "he": "heb",
    "hi": "hin",
    "hu": "hun",
    "id": "ind",
    "it": "ita",
    "ja": "jpn",
    "jv": "jav",
    "ka": "kat",
    "kk": "kaz",
    "ko": "kor",
    "ml": "mal",
    "mr": "mar",
    "nl": "nld",
    "pt": "por",
    "ru": "rus",
    "sw": "swh",
    "ta": "tam",
    "te": "tel",
    "th": "tha",
    "tl": "tgl",
    "tr": "tur",
    "ur": "urd",
    "vi": "vie",
    "zh": "cmn",
}
TATOEBA_FEWER = {
    "jv": 205,
    "ka": 746,
    "kk": 575,
    "ml": 687,
    "sw": 390,
    "ta": 307,
    "te": 234,
    "th": 548,
}
TATOEBA_SOURCE = Source(
    "xtreme/tatoeba",
    "https://github.com/facebookresearch/LASER/tree/main/data/tatoeba/v1",
    "CC BY 2.0 FR",
    "LASER's test sets v1",
)
TEXT_LINES = matched("(?P<text>.*)")


def tatoeba(language: str) -> Parts:
    code = TATOEBA_LANGUAGES[language]
    test = TATOEBA_SOURCE.part(
        "train",  # as TFDS calls its only split
        File(f"tatoeba.{code}-eng.{code}", TEXT_LINES),
        tfds=f"tatoeba/tatoeba_{language}:1.0.0",
        rows=TATOEBA_FEWER.get(language, 1000),
    )
    return {"test": test}


def _beside(data: DataSet, file: File, path: epath.Path, ending: str) -> epath.Path:
    """The file of the same name with another last part: `zh-en.dev.gold` for `zh-en.dev.zh`."""
    name = f"{epath.Path(file.path).stem}.{ending}"
    found = find_path(path.parent / name)
    if found is None:
        raise UserError(
            path.parent / name, f"no such file beside {path}", f"get it from {data.home}"
        )
    return found


def tatoeba_rows(data: DataSet) -> list[Row]:
    """Foreign sentence to English sentence, line by line."""
    (split,) = data.files
    place = locate(data, split)
    if not isinstance(place, tuple):
        keys = ("source_sentence", "target_sentence")  # each with its line's end
        examples = read_tfds(data, split, place)
        pairs = [tuple(e[key].decode("utf-8").strip() for key in keys) for e in examples]
    else:
        pairs = _parallel(data, *place)
    return [
        {"inputs": foreign, "targets": english, "idx": number}
        for number, (foreign, english) in enumerate(pairs)
    ]


def _parallel(data: DataSet, file: File, path: epath.Path) -> list[tuple[str, str]]:
    paths = {"foreign": path, "english": _beside(data, file, path, "eng")}
    sides = {
        side: {
            number: record["text"].strip()
            for number, record in read_records(File(there.name, TEXT_LINES), there, (), data.home)
        }
        for side, there in paths.items()
    }
    foreign, english = sides.values()
    if alone := sorted(foreign.keys() ^ english.keys()):
        there, other = path, paths["english"]
        if alone[0] not in foreign:
            there, other = other, there
        raise UserError(
            f"{there}:{alone[0]}", f"no such line in {other}", f"get both from {data.home}"
        )
    return [(foreign[number], english[number]) for number in foreign]


def bucc_rows(data: DataSet) -> list[Row]:
    """A row for each foreign sentence, with its translation or "", then those of English alone."""
    (split,) = data.files
    place = locate(data, split)
    assert isinstance(place, tuple), "BUCC has no TFDS builder here, so a file was found"
    file, path = place
    english_path = _beside(data, file, path, "en")
    gold_path = _beside(data, file, path, "gold")
    foreign, english = (_sentences(data, there) for there in (path, english_path))
    gold = {}
    for number, pair in read_records(File(gold_path.name, BUCC_ROWS), gold_path, (), data.home):
        for key, texts, where in (("id", foreign, path), ("text", english, english_path)):
            if pair[key] not in texts:
                raise UserError(
                    f"{gold_path}:{number}", f"'{pair[key]}' is not a sentence of {where}"
                )
        gold[pair["id"]] = pair["text"]
    rows = [(text, english.get(gold.get(name, ""), "")) for name, text in foreign.items()]
    paired = set(gold.values())
    rows += [("", text) for name, text in english.items() if name not in paired]
    return [
        {"inputs": inputs, "targets": targets, "idx": number}
        for number, (inputs, targets) in enumerate(rows)
    ]


def _sentences(data: DataSet, path: epath.Path) -> dict[str, str]:
    """{id: sentence} of a file."""
    records = read_records(File(path.name, BUCC_ROWS), path, (), data.home)
    return {record["id"]: record["text"] for _, record in records}
