"""Text files, plain or compressed, and the paragraphs that backbones never see."""

import contextlib
import hashlib
import lzma
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from prompt_jax import contents
from prompt_jax.errors import UserError, reading

# Digests of paragraphs of the corpus that share eight words in a row with a test text.
LEFT_OUT = Path(__file__).parent / "backbones" / "left_out.txt"


@lru_cache(maxsize=1)
def left_out() -> frozenset[str]:
    """The digests of paragraphs that no backbone is trained on."""
    return frozenset(LEFT_OUT.read_text().split())


def paragraph_digest(line: str) -> str:
    """The first 8 digits of its SHA-256."""
    return hashlib.sha256(line.encode()).hexdigest()[:8]


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file, plain, gzip or .xz, without blanks at their ends."""
    check_file(path)
    with reading(path) as place, contextlib.ExitStack() as stack:
        file: Iterable[bytes] = contents.read_lines(path)
        if path.suffix == ".xz":
            file = stack.enter_context(lzma.open(path))
        for place.line, line in enumerate(file, start=1):
            yield line.decode("utf-8").strip()


def check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"corpus file {str(path)!r}", "does not exist", "set Corpus.root or .files")
