"""The bytes of a data file: unpacked, without a byte order mark, and never those of a stand-in."""

import contextlib
import gzip
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from etils import epath

from prompt_jax.errors import UserError, reading
from prompt_jax.paths import is_local

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
FOREIGN = {  # how files of other formats begin, and what makes text of them
    b"PK\x03\x04": ("a zip file, as Excel and LibreOffice save sheets", "save it as CSV in UTF-8"),
    b"\xd0\xcf\x11\xe0": ("a sheet of old Excel", "save it as CSV in UTF-8"),
    b"PAR1": ("Parquet", "call it .parquet"),
    b"ARROW1": ("an Arrow file", "write it as Parquet or JSONL"),
    b"\xfd7zXZ\x00": ("packed by xz", "unpack it, or pack it by gzip"),
    b"BZh": ("packed by bzip2", "unpack it, or pack it by gzip"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "unpack it, or pack it by gzip"),
    b"SQLite format 3": ("a database of SQLite", "write its rows as CSV"),
}
ZERO_BYTE, AS_TEXT = "holds a zero byte", "save the file as text in UTF-8"
_ESCAPED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a byte that is not UTF-8


def read_bytes(path: epath.Path | Path) -> bytes:
    """The contents of a file; gzip, whatever the file is called, comes unpacked.

    UserError for a pointer of Git LFS in place of the file. What gzip raises of a damaged file is
    left to the frame of the reader.
    """
    check_regular(path)
    content = path.read_bytes()
    if content.startswith(GZIP):
        content = gzip.decompress(content)
    refuse_pointer(path, content[:64])
    return content.removeprefix(BYTE_ORDER_MARK)


def json_object(content: bytes | str, where: object, remedy: str = "copy it again") -> dict:
    """The object that a JSON text is; UserError with `remedy` otherwise."""
    with reading(where, remedy):
        value = json.loads(content)
        if not isinstance(value, dict):
            raise ValueError("holds no JSON object")
        return value


def read_lines(path: epath.Path | Path) -> Iterator[bytes]:
    """The lines of a text file as `read_bytes` would give them, of which one is held at a time.

    A line ends with LF or CR LF; where the first kilobytes have neither, with CR.
    """
    with unpacked(path) as file:
        start = file.peek(64)
        _refuse_foreign(path, start[:64])
        if b"\r" not in start or b"\n" in start:
            yield from file
            return
        text = io.TextIOWrapper(file, "latin-1", newline=None)  # each byte is a character
        yield from (line.encode("latin-1") for line in text)


def read_text_lines(path: epath.Path | Path) -> Iterator[str]:
    """As `read_lines`, decoded, each with the line end that it has: LF, CR LF or CR.

    UserError names the first line that is not UTF-8.
    """
    with unpacked(path) as file:
        _refuse_foreign(path, file.peek(64)[:64])
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        for number, line in enumerate(text, start=1):
            if not line.isascii() and _ESCAPED.search(line):
                raise UserError(f"{path}:{number}", "not UTF-8", "save the file as UTF-8")
            yield line


@contextlib.contextmanager
def unpacked(path: epath.Path | Path) -> Iterator[io.BufferedReader]:
    """A file to read from, as `read_bytes` would give it, without holding it."""
    check_regular(path)
    with path.open("rb") as opened:
        file = cast(BinaryIO, opened)
        start = file.read(64)
        stored = io.BufferedReader(_Joined(start, file))
        packed = start.startswith(GZIP)
        raw = io.BufferedReader(gzip.GzipFile(fileobj=stored)) if packed else stored
        content = cast(io.BufferedReader, raw)
        first = content.peek(64)[:64]
        refuse_pointer(path, first)
        if first.startswith(BYTE_ORDER_MARK):
            content.read(len(BYTE_ORDER_MARK))
        yield content


def refuse_pointer(path: object, start: bytes) -> None:
    """UserError where Git LFS left a pointer in place of the file, or where it is UTF-16."""
    if start.startswith(LFS_POINTER):
        raise UserError(path, "a pointer of Git LFS, not the file", "run `git lfs pull` beside it")
    if start.startswith(UTF16):
        kind = "UTF-32" if b"\0\0" in start[:4] else "UTF-16"
        raise UserError(path, kind, "save the file as UTF-8")


def _refuse_foreign(path: object, start: bytes) -> None:
    """UserError where a text file begins as one of another format does."""
    for beginning, (kind, remedy) in FOREIGN.items():
        if start.startswith(beginning):
            raise UserError(path, f"{kind}, not text", remedy)


def check_regular(path: epath.Path | Path) -> None:
    """UserError for a pipe or a device, which cannot be read twice."""
    if not is_local(path):
        return
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(path, "a pipe or a device, not a file", "write it to a file first")


def refuse_pointer_at(path: epath.Path | Path) -> None:
    """As `refuse_pointer`, of a file that another reader cannot read."""
    if path.is_file():
        with path.open("rb") as file:
            refuse_pointer(path, cast(BinaryIO, file).read(64))


class _Joined(io.RawIOBase):
    """What was read from a file already, and its rest."""

    def __init__(self, start: bytes, rest: BinaryIO):
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part = self._start[: len(buffer)]
        self._start = self._start[len(part) :]
        part += self._rest.read(len(buffer) - len(part))
        buffer[: len(part)] = part
        return len(part)
