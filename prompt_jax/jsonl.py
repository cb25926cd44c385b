"""JSONL with `inputs` and `targets`: one JSON object per line, UTF-8, blank lines skipped."""

import json
from collections.abc import Iterator

from etils import epath

from prompt_jax.errors import UserError

TEXT_KEYS = ("inputs", "targets")


def parse_row(line: bytes, text_keys: tuple[str, ...] = TEXT_KEYS) -> dict:
    """The object on one line; ValueError says what is wrong with it.

    Keys other than `text_keys` are left as they are.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(
            f"a JSON {type(row).__name__}, not an object with {' and '.join(text_keys)}"
        )
    for key in text_keys:
        if key not in row:
            raise ValueError(
                f"no key '{key}'; the row has {', '.join(map(repr, row)) or 'no keys'}"
            )
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
    """(line number from 1, line) of every line that is not blank; a missing file is a UserError."""
    file = epath.Path(path)
    if not file.is_file():
        raise UserError(f"no such JSONL file: {path}")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def read_jsonl(path: str, text_keys: tuple[str, ...] = TEXT_KEYS) -> list[dict]:
    """Every row in file order; UserError "FILE:LINE: what" for a bad line, or "FILE: no rows"."""
    rows = []
    for number, line in numbered_lines(path):
        try:
            rows.append(parse_row(line, text_keys))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    if not rows:
        wanted = " and ".join(text_keys)
        raise UserError(f"{path}: no rows; write one JSON object with {wanted} a line")
    return rows


def stem_of(file_name: str) -> str:
    """The name that a task's JSONL files share.

    >>> stem_of("tickets.train.jsonl")
    'tickets'
    """
    return file_name.removesuffix(".jsonl").removesuffix(".train")


def split_files(train_path: str, validation_path: str | None = None) -> dict[str, str]:
    """{split: path} of a task's files: NAME.train.jsonl or NAME.jsonl, and NAME.validation.jsonl
    (or `validation_path`) and NAME.test.jsonl where they are there; UserError if a given one is
    not."""
    train = epath.Path(train_path)
    stem = stem_of(train.name)
    files = {"train": train}
    for split in ("validation", "test"):
        beside = train.parent / f"{stem}.{split}.jsonl"
        if beside.is_file() and beside != train:
            files[split] = beside
    if validation_path is not None:
        files["validation"] = epath.Path(validation_path)
    for path in files.values():
        if not path.is_file():
            raise UserError(f"no such JSONL file: {path}")
    return {split: str(path) for split, path in files.items()}
