"""CSV and TSV with a header: rows of text by column, of which one is held at a time."""

import csv
import itertools
import re
import sys
from collections.abc import Iterator

from etils import epath

from prompt_jax.contents import read_text_lines
from prompt_jax.errors import UserError

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a document

_SEPARATED = re.compile(r"sep=([,;\t|])")
Rows = Iterator[tuple[int, list[str]]]


def read_table(path: str, tabs: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of its last line, {column: text}) of every row below the header.

    Cells are quoted as in RFC 4180: `"say ""no"", please"`. Where the header has no comma but
    semicolons, as spreadsheets save them in much of Europe, or tabs, or bars, these separate; so
    does what Excel's line `sep=;` says. `tabs`: TSV, in which quotes mean nothing unless the whole
    file is well quoted; it is read twice for that.

    UserError names file and line: another encoding, cells that the header does not name, a quote
    that never ends, two columns of one name.
    """
    lines, delimiter = _lines(path, tabs)
    quoted = not tabs or _well_quoted(path)
    rows = _quoted(path, lines, delimiter) if quoted else _plain(lines)
    _, columns = next(rows, (0, []))
    if twice := {name for name in columns if columns.count(name) > 1}:
        raise UserError(f"{path}:1", f"two columns are called '{min(twice)}'", "rename one")
    for number, cells in rows:
        if any("\0" in cell for cell in cells):
            raise UserError(
                f"{path}:{number}", "holds a zero byte", "save the file as text in UTF-8"
            )
        if len(cells) != len(columns):
            problem = f"{len(cells)} cells under the {len(columns)} of the header"
            remedy = f"quote a cell that holds {'a tab' if tabs else f'a {delimiter!r}'}"
            raise UserError(f"{path}:{number}", problem, remedy)
        yield number, dict(zip(columns, cells, strict=True))


def _lines(path: str, tabs: bool) -> tuple[Iterator[str], str]:
    """All lines, of which one is held at a time, and what separates their cells."""
    lines, begun = read_text_lines(epath.Path(path)), []
    for line in lines:
        begun.append(line)
        if line.strip():
            break
    header = begun[-1] if begun else ""
    if (said := _SEPARATED.fullmatch(header.rstrip("\r\n"))) and not tabs:
        return itertools.chain(["\n"] * len(begun), lines), said[1]
    delimiter = "\t" if tabs else next((mark for mark in ",;\t|" if mark in header), ",")
    return itertools.chain(begun, lines), delimiter


def _well_quoted(path: str) -> bool:
    """Whether a TSV reads as quoted from end to end, each row with as many cells as the header."""
    rows = _quoted(path, *_lines(path, tabs=True))
    try:
        header = next(rows, (0, []))[1]
        return all(len(cells) == len(header) for _, cells in rows)
    except UserError:
        return False


def _quoted(path: str, lines: Iterator[str], delimiter: str) -> Rows:
    """(number of the last line, cells) of each row that is not blank."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if any(map(str.strip, cells)))
    except csv.Error as error:
        where = f"{path}:{reader.line_num}"
        raise UserError(where, f"not CSV ({error})", "quote it as CSV wants") from None


def _plain(lines: Iterator[str]) -> Rows:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.rstrip("\r\n").split("\t")
