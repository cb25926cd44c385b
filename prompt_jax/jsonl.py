"""JSONL with `inputs` and `targets`: one JSON object per line, UTF-8, blank lines skipped.

A path that ends in `.parquet`, `.csv` or `.tsv` is read as such, its rows in place of lines, with
the same rules, and so is a file of one JSON list; each but Parquet also as `.gz`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from prompt_jax.contents import AS_TEXT, ZERO_BYTE, read_bytes, read_lines, refuse_pointer
from prompt_jax.errors import UserError, reading
from prompt_jax.splits import check_is_file, kind_of, parse
from prompt_jax.tables import read_table

TEXT_KEYS = ("inputs", "targets")
UNLABELLED = "<unk>"  # the target of a row without a label, as in T5's own SuperGLUE tasks


def parse_row(line: bytes, text_keys: tuple[str, ...] = TEXT_KEYS) -> dict:
    """The object on one line; ValueError says what is wrong with it.

    Keys other than `text_keys` are left as they are.
    """
    if 0 in line:
        raise ValueError(f"{ZERO_BYTE}; {AS_TEXT}")
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
    except ValueError:
        raise ValueError("a number of thousands of digits; write it as a text") from None
    if not isinstance(row, dict):
        raise ValueError(
            f"a JSON {type(row).__name__}, not an object with {' and '.join(text_keys)}"
        )
    for key in text_keys:
        if line.count(b'"%s"' % key.encode()) > 1 and key in _twice(line):
            raise ValueError(f"has '{key}' twice; rename one")
        if key not in row:
            has = ", ".join(map(repr, row)) or "no keys"
            remedy = f"; name the right one: FILE?{key}=COLUMN" if row and key in TEXT_KEYS else ""
            if any(isinstance(v, list) and v and isinstance(v[0], dict) for v in row.values()):
                remedy = "; its rows are within it: write that list alone, or one object a line"
            raise ValueError(f"no key '{key}'; the row has {has}{remedy}")
        check_text(key, row[key])
    return row


def _twice(line: bytes) -> set[str]:
    """The keys that an object on a line, or one within it, has more than once."""
    twice: set[str] = set()

    def collect(pairs: list[tuple[str, object]]) -> dict:
        counts = Counter(key for key, _ in pairs)
        twice.update(key for key, times in counts.items() if times > 1)
        return dict(pairs)

    json.loads(line, object_pairs_hook=collect)
    return twice


def check_text(key: str, value: object) -> None:
    """ValueError unless `value` is a string that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError(f"'{key}' is {json.dumps(value)[:40]}, not a string; {_to_text(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"'{key}' holds half of a surrogate pair; write the whole pair") from None


def _to_text(value: object) -> str:
    """What to do with a value that should be a text."""
    if value is None:
        return "write its text, or leave the row out"
    return "write one text a row" if isinstance(value, list | dict) else "put it in quotes"


def numbered_lines(name: str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank; a missing file is a UserError.

    A row of another format comes as the JSON line that it would be, with the columns that `?` names
    (see `splits`) in the place of `inputs` and `targets`.
    """
    path, columns = parse(name)
    check_is_file(path)
    with reading(path, "copy it again, or check your access to it"):
        yield from _numbered_lines(path, columns)


def _numbered_lines(path: str, columns: dict[str, str]) -> Iterator[tuple[int, bytes]]:
    file = epath.Path(path)
    kind = kind_of(path)
    if kind == ".parquet":
        rows = _parquet_rows(file, columns)
    elif kind in (".csv", ".tsv"):
        rows = read_table(path, tabs=kind == ".tsv")
    elif _is_list(file):
        rows = _entries(file)
    else:
        lines = ((n, line) for n, line in enumerate(read_lines(file), start=1) if line.strip())
        yield from (_mapped_lines(path, lines, columns) if columns else lines)
        return
    for number, row in rows:
        named = _named(f"{path}:{number}", row, columns) if columns else row
        yield number, json.dumps(named, ensure_ascii=False, default=str).encode()


def _is_list(file: epath.Path) -> bool:
    """Whether a JSON file begins as a list of objects, in place of one object a line."""
    first = next((line for line in read_lines(file) if line.strip()), b"").lstrip()
    return first.startswith(b"[") and first[1:].lstrip()[:1] in (b"{", b"")


def _entries(file: epath.Path) -> Iterator[tuple[int, dict]]:
    """(its number from 1, object) of every entry of a JSON list."""
    with reading(file, "write a JSON list of objects") as place:
        for place.line, row in enumerate(json.loads(read_bytes(file)), start=1):
            if not isinstance(row, dict):
                raise ValueError(f"a JSON {type(row).__name__}, not an object")
            yield place.line, row


def _mapped_lines(path: str, lines: Iterator[tuple[int, bytes]], columns: dict[str, str]):
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            yield number, line  # `parse_row` says what is wrong
            continue
        named = _named(f"{path}:{number}", row, columns)
        yield number, json.dumps(named, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _named(where: str, row: dict, columns: dict[str, str]) -> dict:
    """A row whose columns stand under the names that they are read as.

    A whole number is its digits: labels often are numbers.
    """
    for column in columns.values():
        if column not in row:
            has = ", ".join(map(repr, row)) or "no columns"
            raise UserError(where, f"no column '{column}'", f"it has {has}")
        if type(row[column]) is not int:
            try:
                check_text(column, row[column])
            except ValueError as error:
                problem, _, remedy = str(error).rpartition("; ")
                raise UserError(where, problem, remedy) from None
    rest = {key: v for key, v in row.items() if key not in (*columns, *columns.values())}
    values = {key: row[column] for key, column in columns.items()}
    return {k: str(v) if type(v) is int else v for k, v in values.items()} | rest


def _parquet_rows(file: epath.Path, columns: dict[str, str]) -> Iterator[tuple[int, dict]]:
    """(its number from 1, row) of every row; class ids of Hugging Face's `datasets` in a column
    that `columns` names are the names of the classes."""
    import pyarrow
    from pyarrow import parquet

    try:
        with file.open("rb") as content:
            refuse_pointer(file, content.read(64))
            table = parquet.ParquetFile(content)
            classes = _classes(table.schema_arrow.metadata or {}, columns)
            rows = (row for batch in table.iter_batches() for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                for key, value in row.items():
                    row[key] = _plain(f"{file}:{number}", key, value)
                for key, names in classes.items():
                    if type(row[key]) is int:
                        row[key] = names[row[key]] if row[key] >= 0 else UNLABELLED
                yield number, row
    except pyarrow.ArrowInvalid as error:
        raise UserError(file, f"not Parquet ({error})") from None


def _classes(metadata: dict[bytes, bytes], columns: dict[str, str]) -> dict[str, list[str]]:
    """{column: the names of its classes} of the columns that are read as text."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {
        column: list(features[column]["names"])
        for column in columns.values()
        if isinstance(features.get(column), dict) and "names" in features[column]
    }


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
    path: str | Sequence[str],
    text_keys: tuple[str, ...] = TEXT_KEYS,
    check: Callable[[dict], None] = lambda row: None,
) -> list[dict]:
    """Every row in file order; as `stream_jsonl`, all in memory."""
    return list(stream_jsonl(path, text_keys, check))


def stream_jsonl(
    path: str | Sequence[str],
    text_keys: tuple[str, ...] = TEXT_KEYS,
    check: Callable[[dict], None] = lambda row: None,
) -> Iterator[dict]:
    """The rows in file order, of one file or several; UserError "FILE:LINE: what" for a bad line,
    or one of which `check` raises a ValueError, or "FILE: no rows"."""
    for file in [path] if isinstance(path, str) else path:
        with reading(parse(file)[0]) as place:
            for place.line, line in numbered_lines(file):
                row = parse_row(line, text_keys)
                check(row)
                yield row
        if place.line is None:
            wanted = " and ".join(text_keys)
            raise UserError(file, "no rows", f"write one JSON object with {wanted} a line")
