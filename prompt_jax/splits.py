"""Which files are the splits of a task: a file and those beside it, or a folder, by their names.

    tickets.train.jsonl  tickets.validation.jsonl      also tickets_train.csv, tickets-dev.tsv.gz
    train.csv  validation.csv  test.csv                as `load_dataset` of Hugging Face names them
    train-00000-of-00002.parquet  ...                  a split in parts
    FOLDER with any of these, also in FOLDER/data
    FOLDER/train/...                                   every file in it is of that split

Small and capital letters are alike in endings and in the words that name a split.

`FILE?inputs=text&targets=label` reads other columns as inputs and targets.
"""

import os
import re
import urllib.parse
from collections.abc import Sequence

from etils import epath

from prompt_jax.errors import UserError, reading
from prompt_jax.paths import is_local

PACKABLE = (".jsonl", ".ndjson", ".csv", ".tsv", ".json")
ENDINGS = (*PACKABLE, ".parquet", *(f"{kind}.gz" for kind in PACKABLE))
COLUMNS = ("inputs", "targets")
WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_ENDING = re.compile(rf"(?:{'|'.join(map(re.escape, ENDINGS))})$", re.IGNORECASE)
_WORD = re.compile(rf"(?<![^-._ ])({'|'.join(WORDS)})(?![^-._ ])", re.IGNORECASE)
_REGISTERED = re.compile(r"\bjsonl:(\w+):[0-9a-f]{8}\b")
_PART = re.compile(r"[-_.]?\d+(-of-\d+)?$")

Files = dict[str, tuple[str, ...]]


def parse(name: str) -> tuple[str, dict[str, str]]:
    """(path, {"inputs" or "targets": the column that holds it}) of a name with or without `?`.

    >>> parse("a/b.csv?inputs=text&targets=label")
    ('a/b.csv', {'inputs': 'text', 'targets': 'label'})

    Raises:
      UserError: after `?` stands something else.
    """
    path, asked, options = name.rpartition("?")
    if not asked or epath.Path(name).exists():
        return name, {}
    columns = {}
    for option in options.split("&"):
        key, _, column = option.partition("=")
        if key not in COLUMNS or not column or key in columns:
            remedy = "write ?inputs=COLUMN&targets=COLUMN after the file"
            raise UserError(name, f"'{option}' is not a column", remedy)
        columns[key] = urllib.parse.unquote(column)
    return path, columns


def names_rows(name: str) -> bool:
    """Whether a task's name is that of a file of rows, by its ending."""
    return bool(kind_of(name.rpartition("?")[0]) or kind_of(name))


def kind_of(file_name: str) -> str:
    """The format of a file of rows, by its ending; "" for another file.

    >>> kind_of("a/tickets.CSV.gz"), kind_of("a.parquet"), kind_of("a.txt")
    ('.csv', '.parquet', '')
    """
    ending = _ENDING.search(file_name)
    return ending[0].lower().removesuffix(".gz") if ending else ""


def names_folder(name: str) -> bool:
    """Whether a task's name is that of a folder."""
    path = name.rpartition("?")[0] or name
    return bool(path) and epath.Path(path).is_dir()


def check_is_file(path: str) -> None:
    """UserError unless `path` is a file of rows."""
    with reading(path, "check your access to it"):
        if epath.Path(path).is_dir():
            raise UserError(path, "a folder, not a file of rows")
        if not epath.Path(path).is_file():
            dangling = is_local(path) and os.path.islink(path)
            raise UserError(
                path, "a link that leads nowhere" if dangling else "no such file of rows"
            )


def stem_of(file_name: str) -> str:
    """The name that a task's files share.

    >>> stem_of("tickets.train.jsonl"), stem_of("tickets.csv.gz")
    ('tickets', 'tickets')
    """
    return re.sub(r"\.train$", "", _bare(file_name), flags=re.IGNORECASE)


def registered_stem(path: str) -> str:
    """The part of a registered name (`jsonl:STEM:DIGEST`) that comes from the file's or folder's.

    >>> registered_stem("data/my tickets.train.csv"), registered_stem("rows/")
    ('my_tickets', 'rows')
    """
    return re.sub(r"\W", "_", stem_of(epath.Path(path).name))


_typed: dict[str, str] = {}  # what the user named, by the name that it is registered under


def remember(registered: str, named: str) -> None:
    """`named` is what errors call the task of a file or folder from now on."""
    _typed[registered] = named


def typed(task: str) -> str:
    """A task as the user named it: for the registered name of a file or folder, its path."""
    return _typed.get(task, task)


def readable(text: str, typed: str) -> str:
    """A text for people: names of files in place of those that they are registered by.

    `typed`: a task, or several with + between them, as the user named it. A name that could be
    that of two files stays as it is.

    >>> readable("{'jsonl:rows:0a1b2c3d': 11}", "data/rows.csv?inputs=text&targets=label")
    "{'rows.csv': 11}"
    >>> readable("jsonl:a:0a1b2c3d/f1 jsonl:b:0a1b2c3d/f1", "x/a.csv+y/a.csv+trec")
    'jsonl:a:0a1b2c3d/f1 b/f1'
    """
    paths = dict.fromkeys(part.rpartition("?")[0] or part for part in typed.split("+"))

    def name(match: re.Match[str]) -> str:
        alike = [epath.Path(path).name for path in paths if registered_stem(path) == match[1]]
        return {0: match[1], 1: "".join(alike)}.get(len(alike), match[0])

    return _REGISTERED.sub(name, text)


def split_files(name: str, validation: str | None = None) -> Files:
    """{split: its files, in order} of a task that is named by a file or a folder.

    A file is the split that its name says, else `train`. A training file goes with those of other
    splits beside it; a file of another split is that split and no other. `validation` names that
    split's file. Each file keeps the columns of `?`.

    Raises:
      UserError: there is no such file; two files could be one split; a folder without rows.
    """
    path, _ = parse(name)
    asked = name[len(path) :]
    given = epath.Path(path)
    if given.is_dir():
        files = _of_folder(given)
    else:
        check_is_file(path)
        files = _beside(given)
    if validation is not None:
        check_is_file(parse(validation)[0])
        files["validation"] = (validation.removesuffix(asked),)
    return {split: tuple(f"{file}{asked}" for file in some) for split, some in files.items()}


def _bare(file_name: str) -> str:
    """A file's name without its ending."""
    return _ENDING.sub("", file_name)


def _split_in(stem: str) -> tuple[str, str, str] | None:
    """(what stands before it, the split, what stands after it) of the last word that names one."""
    words = list(_WORD.finditer(stem))
    if not words:
        return None
    word = words[-1]
    return stem[: word.start()], WORDS[word[1].lower()], stem[word.end() :]


def _own(stem: str) -> tuple[str, str, str] | None:
    """As `_split_in`, of a word that begins or ends the stem but for the number of a part."""
    parts = _split_in(_PART.sub("", stem))
    return parts if parts and (not parts[0] or not parts[2]) else None


def _beside(given: epath.Path) -> Files:
    stem = _bare(given.name)
    own = _own(stem)
    split = own[1] if own else "train"
    if split != "train":
        return {split: (str(given),)}
    before, after = (own[0], own[2]) if own else (stem, "")
    files: Files = {"train": (str(given),)}
    if own and _PART.search(stem) and "-of-" in stem:
        files["train"] = tuple(map(str, _parts_of(given)))
    for other in ("validation", "test"):
        candidates = []
        for file in given.parent.iterdir():
            if not kind_of(file.name) or file == given or not file.is_file():
                continue
            there = _own(_bare(file.name))
            if there is None or there[1] != other or there[2] != after:
                continue
            if there[0] == before or (not own and there[0][:-1] == before and there[0]):
                candidates.append(file)
        if candidates:
            files[other] = tuple(map(str, _one_kind(given.parent, other, candidates, given)))
    return files


def _parts_of(given: epath.Path) -> list[epath.Path]:
    """All parts of the split that a part belongs to."""
    start = _PART.sub("", _bare(given.name))
    kind = given.name[len(_bare(given.name)) :]
    parts = sorted(
        file
        for file in given.parent.iterdir()
        if file.name.endswith(kind) and _PART.sub("", _bare(file.name)) == start
    )
    _check_parts(parts)
    return parts


def _check_parts(files: Sequence[epath.Path]) -> None:
    """UserError for the first part that a number such as `00000-of-00002` says there should be."""
    names = {_bare(file.name): file for file in files}
    for bare, file in names.items():
        if counts := re.search(r"(\d+)-of-(\d+)$", bare):
            for number in range(int(counts[2])):
                part = f"{bare[: counts.start()]}{number:0{len(counts[1])}}-of-{counts[2]}"
                if part not in names:
                    missing = file.parent / f"{part}{file.name[len(bare) :]}"
                    raise UserError(missing, f"this part is not beside {file.name}", "copy it too")


def _one_kind(
    folder: epath.Path, split: str, files: Sequence[epath.Path], like: epath.Path | None = None
) -> list[epath.Path]:
    """The files of one format and one name, but for the numbers of parts; that of `like` first.

    In a subfolder that has the split's name they may be called anything.
    """
    groups: dict[tuple[str, str], list[epath.Path]] = {}
    for file in sorted(files):
        bare = _bare(file.name)
        name = _PART.sub("", bare)
        if file.parent != folder and _named_split(file.parent) == split:
            name = file.parent.name
        groups.setdefault((name, file.name[len(bare) :]), []).append(file)
    if like is not None and len(groups) > 1:
        kind = like.name[len(_bare(like.name)) :]
        groups = {key: some for key, some in groups.items() if key[1] == kind} or groups
    if len(groups) > 1:
        named = ", ".join(some[0].name for some in groups.values())
        remedy = f"leave one there, or put files of one format into {folder / split}"
        raise UserError(folder, f"{named} could each be the split '{split}'", remedy)
    parts = next(iter(groups.values()))
    _check_parts(parts)
    return parts


def _named_split(subfolder: epath.Path) -> str | None:
    """The split that all files of a subfolder belong to; None where its name says none."""
    return WORDS.get(subfolder.name.lower())


def _of_folder(folder: epath.Path) -> Files:
    by_split: dict[str, list[epath.Path]] = {}
    others = []
    subfolders = [place for place in sorted(folder.iterdir()) if place.is_dir()]
    for place in (folder, *subfolders):
        named = None if place == folder else _named_split(place)
        if not (place in (folder, folder / "data") or named):
            continue
        for file in sorted(place.iterdir()):
            if not kind_of(file.name) or not file.is_file():
                continue
            parts = _split_in(_PART.sub("", _bare(file.name)))
            split = named or (parts and parts[1])
            (by_split.setdefault(split, []) if split else others).append(file)
    if not by_split and others:
        by_split["train"] = others
    if not by_split:
        remedy = f"it wants train.jsonl or another of {', '.join(ENDINGS)}"
        raise UserError(folder, "a folder without files of rows", remedy)
    order = [split for split in dict.fromkeys(WORDS.values()) if split in by_split]
    return {split: tuple(map(str, _one_kind(folder, split, by_split[split]))) for split in order}
