"""The commands of README.md and docs/, as they stand there."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"(?:<!-- (?P<kind>file|commands): (?P<name>\S+) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


_OTHER = re.compile(
    r"\s*(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:pip|uvx?|curl|make|python3?|srun|sbatch|git|cp|hf|docker"
    r"|kubectl|tensorboard|cd|mkdir|export|jq|tar|wget) "
)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_INLINE = re.compile(r"`((?:prompt-jax|uvx|pip|make|python) [^`]+)`")


class Block(NamedTuple):
    """A code block.

    Attributes:
      kind: `file` (written before commands run), `commands` (run by a test) or "".
      name: of the file, or of the commands.
    """

    page: str
    kind: str
    name: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Every command of ours, as arguments after `prompt-jax`."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.split(line)[1:] for line in lines if line.startswith("prompt-jax ")]

    @property
    def others(self) -> list[str]:
        """Every command of other programs, a line each."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if _OTHER.match(line)]


def pages() -> list[str]:
    """Paths of the pages, from the root; those that a script writes from the code are left out."""
    docs = sorted((ROOT / "docs").rglob("*.md"))
    written = ("docs/reference/cli.md", "docs/reference/gin.md")
    names = [path.relative_to(ROOT).as_posix() for path in docs]
    return ["README.md", *(name for name in names if name not in written)]


def inline(page: str) -> list[str]:
    """The commands within the sentences and tables of a page, each on one line."""
    text = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [" ".join(command.split()) for command in _INLINE.findall(text)]


def indented(page: str) -> list[Block]:
    """The code blocks of a page that are indented and not fenced."""
    text = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [Block(page, "", "", "", hit) for hit in _INDENTED.findall(text)]


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    hits = (hit.groupdict() for hit in _BLOCK.finditer(text))
    return [Block(page, h["kind"] or "", h["name"] or "", h["language"], h["text"]) for h in hits]
