"""The bytes of a data file: unpacked, without a byte order mark, and never those of a stand-in."""

import contextlib
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from etils import epath

from prompt_jax.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
_ESCAPED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a byte that is not UTF-8


def read_bytes(path: epath.Path | Path) -> bytes:
    """The contents of a file; gzip, whatever the file is called, comes unpacked.

    UserError for a pointer of Git LFS in place of the file. What gzip raises of a damaged file is
    left to the frame of the reader.
    """
    content = path.read_bytes()
    if content.startswith(GZIP):
        content = gzip.decompress(content)
    refuse_pointer(path, content[:64])
    return content.removeprefix(BYTE_ORDER_MARK)


def read_lines(path: epath.Path | Path) -> Iterator[bytes]:
    """The lines of a file as `read_bytes` would give them, of which one is held at a time."""
    with unpacked(path) as file:
        yield from file


def read_text_lines(path: epath.Path | Path) -> Iterator[str]:
    """As `read_lines`, decoded, each with the line end that it has: LF, CR LF or CR.

    UserError names the first line that is not UTF-8.
    """
    with unpacked(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        for number, line in enumerate(text, start=1):
            if not line.isascii() and _ESCAPED.search(line):
                raise UserError(f"{path}:{number}", "not UTF-8", "save the file as UTF-8")
            yield line


@contextlib.contextmanager
def unpacked(path: epath.Path | Path) -> Iterator[io.BufferedReader]:
    """A file to read from, as `read_bytes` would give it, without holding it."""
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
        raise UserError(path, "UTF-16", "save the file as UTF-8")


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
        part = part or self._rest.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)
