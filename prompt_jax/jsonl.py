"""JSONL with `inputs` and `targets`: one JSON object per line, UTF-8, blank lines skipped.

A path that ends in `.parquet` is read as such, its rows in place of lines, with the same rules.
"""

import json
from collections.abc import Callable, Iterator

from etils import epath

from prompt_jax.contents import read_lines, refuse_pointer
from prompt_jax.errors import UserError, reading

TEXT_KEYS = ("inputs", "targets")
ENDINGS = (".jsonl", ".parquet")  # what files of rows are called


def parse_row(line: bytes, text_keys: tuple[str, ...] = TEXT_KEYS) -> dict:
    """The object on one line; ValueError says what is wrong with it.

    Keys other than `text_keys` are left as they are.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8; save the file as UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply; write one JSON object with texts a line") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON ({error.msg} at column {error.colno}); write one JSON object a line"
        ) from None
    if not isinstance(row, dict):
        raise ValueError(
            f"a JSON {type(row).__name__}, not an object with {' and '.join(text_keys)}"
        )
    for key in text_keys:
        if key not in row:
            has = ", ".join(map(repr, row)) or "no keys"
            remedy = f"; call the right one '{key}'" if row and key in TEXT_KEYS else ""
            raise ValueError(f"no key '{key}'; the row has {has}{remedy}")
        check_text(key, row[key])
    return row


def check_text(key: str, value: object) -> None:
    """ValueError unless `value` is a string that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError(f"'{key}' is {json.dumps(value)[:40]}, not a string; put it in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"'{key}' holds half of a surrogate pair; write the whole pair") from None


def numbered_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank; a missing file is a UserError.

    A row of Parquet comes as the JSON line that it would be.
    """
    file = epath.Path(path)
    if not file.is_file():
        raise UserError(path, "no such file of rows")
    if path.endswith(".parquet"):
        yield from _parquet_lines(file)
        return
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            yield number, line


def _parquet_lines(file: epath.Path) -> Iterator[tuple[int, bytes]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with file.open("rb") as content:
            refuse_pointer(file, content.read(64))
            batches = parquet.ParquetFile(content).iter_batches()
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                for key, value in row.items():
                    row[key] = _plain(f"{file}:{number}", key, value)
                yield number, json.dumps(row, ensure_ascii=False, default=str).encode()
    except pyarrow.ArrowInvalid as error:
        raise UserError(file, f"not Parquet ({error})") from None


def _plain(where: str, key: str, value: object) -> object:
    """A Parquet value as JSON has it: binary is UTF-8 text; UserError if it is not, and if a text
    is a date or another type that JSON has not."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            problem = f"the binary column '{key}' is not UTF-8"
            raise UserError(where, problem, "write it as a column of strings") from None
    if isinstance(value, list):
        return [_plain(where, key, item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(where, key, item) for name, item in value.items()}
    if key in TEXT_KEYS and not isinstance(value, str | int | float | None):
        problem = f"'{key}' is a {type(value).__name__}, not a string"
        raise UserError(where, problem, "write it as a column of strings")
    return value


def read_jsonl(
    path: str,
    text_keys: tuple[str, ...] = TEXT_KEYS,
    check: Callable[[dict], None] = lambda row: None,
) -> list[dict]:
    """Every row in file order; as `stream_jsonl`, all in memory."""
    return list(stream_jsonl(path, text_keys, check))


def stream_jsonl(
    path: str,
    text_keys: tuple[str, ...] = TEXT_KEYS,
    check: Callable[[dict], None] = lambda row: None,
) -> Iterator[dict]:
    """The rows in file order; UserError "FILE:LINE: what" for a bad line, or one of which `check`
    raises a ValueError, or "FILE: no rows"."""
    with reading(path) as place:
        for place.line, line in numbered_lines(path):
            row = parse_row(line, text_keys)
            check(row)
            yield row
    if place.line is None:
        wanted = " and ".join(text_keys)
        raise UserError(path, "no rows", f"write one JSON object with {wanted} a line")


def stem_of(file_name: str) -> str:
    """The name that a task's JSONL files share.

    >>> stem_of("tickets.train.jsonl")
    'tickets'
    """
    for ending in ENDINGS:
        file_name = file_name.removesuffix(ending)
    return file_name.removesuffix(".train")


def split_files(train_path: str, validation_path: str | None = None) -> dict[str, str]:
    """{split: path} of a task's files: NAME.train.jsonl or NAME.jsonl, and NAME.validation.jsonl
    (or `validation_path`) and NAME.test.jsonl where they are there; UserError if a given one is
    not. So are train.jsonl and validation.jsonl; NAME.validation.jsonl and NAME.test.jsonl, given
    by themselves, are that split and no other. The same with `.parquet`."""
    train = epath.Path(train_path)
    stem = stem_of(train.name)
    own = stem.rpartition(".")[2]
    files = {own if own in ("validation", "test") else "train": train}
    start = "" if stem == "train" else f"{stem}."
    for split in ("validation", "test") if "train" in files else ():
        beside = train.parent / f"{start}{split}{train.suffix}"
        if beside.is_file() and beside != train:
            files[split] = beside
    if validation_path is not None:
        files["validation"] = epath.Path(validation_path)
    for path in files.values():
        if not path.is_file():
            raise UserError(path, "no such file of rows")
    return {split: str(path) for split, path in files.items()}
