"""CSV and TSV with a header: rows of text by column."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence

from etils import epath

from prompt_jax.contents import read_bytes
from prompt_jax.errors import UserError

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a document


def read_table(path: str, tabs: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of its last line, {column: text}) of every row below the header.

    Cells are quoted as in RFC 4180: `"say ""no"", please"`. Where the header has semicolons and no
    comma they separate, as spreadsheets save them in much of Europe. `tabs`: TSV, in which quotes
    mean nothing unless the whole file is well quoted.

    UserError names file and line: another encoding, cells that the header does not name, a quote
    that never ends, two columns of one name.
    """
    lines = _text(path, read_bytes(epath.Path(path))).splitlines(keepends=True)
    header = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if tabs else ";" if ";" in header and "," not in header else ","
    rows = _quoted(path, lines, delimiter)
    if tabs and (isinstance(rows, UserError) or not _even(rows)):
        rows = [
            (number, line.rstrip("\r\n").split("\t"))
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    if isinstance(rows, UserError):
        raise rows
    columns = rows[0][1] if rows else []
    if twice := {name for name in columns if columns.count(name) > 1}:
        raise UserError(f"{path}:1", f"two columns are called '{min(twice)}'", "rename one")
    for number, cells in rows[1:]:
        if len(cells) != len(columns):
            problem = f"{len(cells)} cells under the {len(columns)} of the header"
            remedy = f"quote a cell that holds {'a tab' if tabs else f'a {delimiter!r}'}"
            raise UserError(f"{path}:{number}", problem, remedy)
        yield number, dict(zip(columns, cells, strict=True))


def _text(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}", "not UTF-8", "save the file as UTF-8") from None


def _quoted(
    path: str, lines: Sequence[str], delimiter: str
) -> list[tuple[int, list[str]]] | UserError:
    """(number of the last line, cells) of each row that is not blank, or what is wrong."""
    reader = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        return UserError(f"{path}:{reader.line_num}", f"not CSV ({error})", "quote it as CSV wants")


def _even(rows: Sequence[tuple[int, list[str]]]) -> bool:
    return all(len(cells) == len(rows[0][1]) for _, cells in rows)
