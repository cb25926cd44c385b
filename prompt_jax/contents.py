"""The bytes of a data file: unpacked, without a byte order mark, and never those of a stand-in."""

import gzip
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from etils import epath

from prompt_jax.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
UTF16 = (b"\xff\xfe", b"\xfe\xff")


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
    with path.open("rb") as opened:
        file = cast(BinaryIO, opened)
        start = file.read(64)
        rest = io.BufferedReader(_Joined(start, file))
        lines = iter(gzip.GzipFile(fileobj=rest) if start.startswith(GZIP) else rest)
        first = next(lines, b"")
        refuse_pointer(path, first)
        yield from itertools.chain([first.removeprefix(BYTE_ORDER_MARK)], lines)


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
