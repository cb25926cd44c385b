"""How a file of a benchmark becomes records: dicts by column, in the file's order.

A `Layout` numbers the units of a file (lines, or entries of one JSON value) and turns a unit into
records; what is wrong with a unit is a ValueError, to which the reader adds file and number.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prompt_jax.jsonl import check_text, parse_row

Record = dict[str, Any]
Units = Iterable[tuple[int, Any]]


@dataclass(frozen=True)
class Layout:
    """The layout of a file.

    Attributes:
      units: the file's bytes -> (number from 1, unit) of what holds records.
      records: (unit, the names of the columns that must be text) -> its records.
    """

    units: Callable[[bytes], Units]
    records: Callable[[Any, Sequence[str]], list[Record]]


def lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of every line that is not blank."""
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            yield number, line


def decode(line: bytes, encoding: str = "utf-8") -> str:
    """The text of a line; ValueError if it is not of that encoding."""
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(f"not {encoding.upper()}; save the file as {encoding.upper()}") from None


def _json_row(line: bytes, text: Sequence[str]) -> list[Record]:
    return [parse_row(line, tuple(text))]


def _headed(content: bytes) -> Units:
    """(number, (header, line)) of the lines below the first."""
    numbered = lines(content)
    header = next((decode(line).split("\t") for _, line in numbered), [])
    return ((number, (header, line)) for number, line in numbered)


def cells(unit: tuple[Sequence[str], bytes], text: Sequence[str]) -> list[Record]:
    """The one record of a line of tabs under its header; quotes mean nothing."""
    header, line = unit
    values = decode(line).split("\t")
    if len(values) != len(header):
        raise ValueError(f"{len(values)} cells under the {len(header)} of the header; no quoting")
    return [dict(zip(header, values, strict=True))]


def quoted(layout: Layout, times: int = 1) -> Layout:
    """Lines of tabs whose cells may be quoted as in CSV: `"say ""no\"""`.

    csv.writer quotes every cell that holds a quote, so a file is taken as quoted if all such cells
    are; otherwise quotes mean nothing. `times`: XTREME's script quotes PAWS-X's cells once more.
    """

    def units(content: bytes) -> Units:
        rows = [(number, *unit) for number, unit in layout.units(content)]
        split = [line.decode("utf-8", "surrogateescape").split("\t") for _, _, line in rows]
        for time in range(times):
            marked = [cell for row in split for cell in row if '"' in cell]
            if not all(map(QUOTED.fullmatch, marked)) or (
                time and not any('""' in cell for cell in marked)
            ):
                break
            split = [[_unquoted(cell) for cell in row] for row in split]
        lines = ("\t".join(row).encode("utf-8", "surrogateescape") for row in split)
        return (
            (number, (header, line)) for (number, header, _), line in zip(rows, lines, strict=True)
        )

    return Layout(units, layout.records)


QUOTED = re.compile(r'"(?:[^"]|"")*"')


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if '"' in cell else cell


def _whole_cells(unit: tuple[Sequence[str], bytes], text: Sequence[str]) -> list[Record]:
    return cells(unit, text) if unit[1].count(b"\t") + 1 >= len(unit[0]) else []


def without_header(*names: str) -> Layout:
    """Lines of tabs whose columns have these names."""
    return Layout(lambda content: ((n, (names, line)) for n, line in lines(content)), cells)


def matched(pattern: str, encoding: str = "utf-8", **constants: str) -> Layout:
    """Lines that a pattern matches whole; its named groups, and constants, are the record."""
    compiled = re.compile(pattern)

    def records(line: bytes, text: Sequence[str]) -> list[Record]:
        match = compiled.fullmatch(decode(line, encoding))
        if match is None:
            raise ValueError(f"the line is not of the form {pattern}")
        return [{**match.groupdict(), **constants}]

    return Layout(lines, records)


def comma_separated(*header: str) -> Layout:
    """CSV with quotes, in UTF-8; `header` names the columns if the first row does not."""

    def units(content: bytes) -> Units:
        reader = csv.reader(io.StringIO(decode(content), newline=""), strict=True)
        names = list(header) or next(reader, [])
        try:
            yield from ((reader.line_num, (names, row)) for row in reader if row)
        except csv.Error as error:
            raise ValueError(f"not CSV ({error} near line {reader.line_num})") from None

    def records(unit: tuple[list[str], list[str]], text: Sequence[str]) -> list[Record]:
        names, row = unit
        if len(row) != len(names):
            raise ValueError(f"{len(row)} cells, not {len(names)}")
        return [dict(zip(names, row, strict=True))]

    return Layout(units, records)


JSONL = Layout(lines, _json_row)
TSV = Layout(_headed, cells)
# Lines with fewer cells than the header are left out, as TFDS leaves them out of QQP.
TSV_WHOLE_LINES = Layout(_headed, _whole_cells)


def metaicl(*fields: tuple[str, str]) -> Layout:
    """MetaICL's JSONL: `input` is "MARK: text [SEP] MARK: text", `output` the label.

    Args:
      fields: (field, its mark), in the order of `input`.
    """

    def records(line: bytes, text: Sequence[str]) -> list[Record]:
        row = parse_row(line, ("input", "output"))
        rest = row["input"]
        record: Record = {"label": row["output"]}
        for (field, mark), following in zip(fields, (*fields[1:], None), strict=True):
            start, end = f"{mark}: ", "" if following is None else f" [SEP] {following[1]}: "
            if not rest.startswith(start) or end not in rest:
                raise ValueError(f"'input' has no '{start}' before '{end}'")
            value, rest = (rest, "") if following is None else rest.split(end, 1)
            record[field] = value.removeprefix(start)
            rest = rest if following is None else f"{following[1]}: {rest}"
        return [record]

    return Layout(lines, records)


def json_value(content: bytes) -> Any:
    """The one JSON value of a file; ValueError if it is none."""
    try:
        return json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"not JSON ({error})") from None


KINDS = {dict: "an object", list: "a list", int: "a whole number"}


def pick(record: object, key: str, kind: type) -> Any:
    """record[key], of that type; ValueError otherwise."""
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"no key '{key}'")
    if kind is str:
        check_text(key, record[key])
    elif not isinstance(record[key], kind) or isinstance(record[key], bool):
        raise ValueError(f"'{key}' is {json.dumps(record[key])[:40]}, not {KINDS[kind]}")
    return record[key]


def texts(record: object, key: str) -> list[str]:
    """record[key], a list of strings; ValueError otherwise."""
    for text in (found := pick(record, key, list)):
        check_text(key, text)
    return found


def as_number(record: Record, key: str, default: float | None = None) -> float:
    """record[key], which a file may hold as text; ValueError if it is no number.

    `default`: where there is no such key.
    """
    if default is not None and key not in record:
        return float(default)
    value = record[key]
    with contextlib.suppress(ValueError):
        value = float(value) if isinstance(value, str) else value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"'{key}' is {json.dumps(value)[:40]}, not a number")
    return float(value)


def as_whole(record: Record, key: str, default: int | None = None) -> int:
    """As `as_number`, of a whole number."""
    value = as_number(record, key, default)
    if not value.is_integer():
        raise ValueError(f"'{key}' is {value:g}, not a whole number")
    return int(value)


def json_entries(key: str, records: Callable[[Any], list[Record]]) -> Layout:
    """One JSON object whose `key` is a list (or, for "", one list); an entry is a unit."""

    def units(content: bytes) -> Units:
        value = json_value(content)
        entries = pick(value, key, list) if key else value
        if not isinstance(entries, list):
            raise ValueError("not a JSON list")
        return enumerate(entries, start=1)

    return Layout(units, lambda unit, text: records(unit))


def _squad_rows(article: Record) -> list[Record]:
    """question, context, id and `answers`: [(text, start)], of every question of an article."""
    rows = []
    for paragraph in pick(article, "paragraphs", list):
        for entry in pick(paragraph, "qas", list):
            answers = [
                (pick(answer, "text", str), pick(answer, "answer_start", int))
                for answer in pick(entry, "answers", list)
            ]
            row = {key: pick(entry, key, str) for key in ("id", "question")}
            rows.append({**row, "context": pick(paragraph, "context", str), "answers": answers})
    return rows


def _webnlg_rows(entry: Record) -> list[Record]:
    """`triples`: [(subject, property, object)], and `texts`: the good verbalisations."""
    rows = []
    for body in entry.values():
        triples = [
            tuple(pick(triple, part, str) for part in ("subject", "property", "object"))
            for triple in pick(body, "modifiedtripleset", list)
        ]
        texts = [
            pick(text, "lex", str)
            for text in pick(body, "lexicalisations", list)
            if pick(text, "comment", str) == "good"
        ]
        rows.append({"triples": triples, "texts": texts, "category": pick(body, "category", str)})
    return rows


def _dart_rows(entry: Record) -> list[Record]:
    """`triples` and `texts`, a row for each set that the texts were drawn from (`source`)."""
    by_source: dict[str, list[str]] = {}
    for annotation in pick(entry, "annotations", list):
        by_source.setdefault(pick(annotation, "source", str), []).append(
            pick(annotation, "text", str)
        )
    triples = [tuple(triple) for triple in pick(entry, "tripleset", list)]
    if not all(len(triple) == 3 for triple in triples):
        raise ValueError("a triple of 'tripleset' has not three parts")
    return [{"triples": triples, "texts": t, "source": s} for s, t in by_source.items()]


SQUAD = json_entries("data", _squad_rows)
WEBNLG = json_entries("entries", _webnlg_rows)
DART = json_entries("", _dart_rows)


def _sentences(content: bytes) -> Units:
    """(number of the first line, lines) of each run of lines that are not blank."""
    start, run = 0, []
    for number, line in enumerate([*content.splitlines(), b""], start=1):
        if line.strip():
            start, run = (start, run) if run else (number, run)
            run.append(line)
        elif run:
            yield start, run
            run = []


def _tagged(run: list[bytes], text: Sequence[str]) -> list[Record]:
    """`words` and `tags` of one sentence."""
    pairs = [decode(line).split("\t") for line in run]
    bad = [pair for pair in pairs if len(pair) != 2]
    if bad:
        raise ValueError(f"{len(bad[0])} cells in a line of this sentence, not word and tag")
    return [{"words": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]}]


FUSED = (
    "VERB",
    "NOUN",
    "PROPN",
    "PRON",
    "ADJ",
    "NUM",
    "ADV",
    "INTJ",
    "AUX",
    "ADP",
    "DET",
    "PART",
    "CCONJ",
    "SCONJ",
    "X",
    "PUNCT",
)


def named_tags(prefix: str) -> Layout:
    """Sentences of words and tags; where every word begins with `prefix`, as in WikiANN's own
    archive (`en:Marie`), it is cut off."""

    def records(run: list[bytes], text: Sequence[str]) -> list[Record]:
        (record,) = _tagged(run, text)
        words = record["words"]
        if all(word.startswith(prefix) for word in words):
            record["words"] = [word.removeprefix(prefix) for word in words]
        return [record]

    return Layout(_sentences, records)


WITHHELD = "_"  # the word of a treebank whose text is not handed out


def _spoken(word: str) -> str:
    """A word without zero-width non-joiners and blanks, as XTREME has it."""
    return word.replace("\u200c", "").replace(" ", "")


def _conllu(run: list[bytes], text: Sequence[str]) -> list[Record]:
    """`words` and `tags` (UPOS) of one sentence, as XTREME takes them from the treebanks: a token
    that stands for several words counts once, with the tag of theirs that comes first in FUSED;
    comments and empty nodes are left out. A sentence all of whose words, or all but one, are
    withheld gives nothing."""
    rows = [decode(line).split("\t") for line in run if not line.startswith(b"#")]
    bad = [row for row in rows if len(row) != 10]
    if bad:
        raise ValueError(f"{len(bad[0])} columns in a line of this sentence; CoNLL-U has 10")
    tags = {int(row[0]): row[3] for row in rows if row[0].isdecimal()}
    words, upos, last = [], [], 0
    for number, form, *_ in rows:
        first, dash, end = number.partition("-")
        if dash:
            last = int(end)
            inside = {tags[word] for word in range(int(first), last + 1) if word in tags}
            words.append(_spoken(form))
            upos.append(next((tag for tag in FUSED if tag in inside), "X"))
        elif number.isdecimal() and int(number) > last:
            words.append(_spoken(form))
            upos.append(tags[int(number)])
    withheld = words.count(WITHHELD)
    if withheld and withheld >= len(words) - 1:
        return []
    return [{"words": words, "tags": upos}]


TAGGED = Layout(_sentences, _tagged)
CONLLU = Layout(_sentences, _conllu)
