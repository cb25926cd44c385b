"""A library of source prompts: a folder, local or in a bucket, with an entry for each source.

    LIBRARY/NAME/prompt/       the artefact that targets begin with: the best of its run by SOURCE
                               validation
    LIBRARY/NAME/embedding/    the artefact of an early checkpoint: the task's embedding
    LIBRARY/NAME/entry.json    where both come from: FIELDS

After Vu et al. 2022 (SPoT, https://arxiv.org/abs/2110.07904), sections 3 and 4. `entry.json` is
written last: without it there is no entry.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from prompt_jax.contents import json_object
from prompt_jax.errors import UserError
from prompt_jax.prompt.artefact import Prompt, load_prompt, save_prompt
from prompt_jax.prompt.files import MANIFEST, TENSORS

ENTRY, VALUE, EMBEDDING = "entry.json", "prompt", "embedding"
FORMAT_VERSION = 1
NAME = re.compile(r"\w[\w.+-]*")

# `steps`: of the whole run; `best_step`, `early_step`: of the two artefacts. `score`: {metric:
# value} of the best step on `selection`, {"metric", "direction", "task", "split"}: what chose it.
# `length`: {side: rows}. `sha256`: of both artefacts' tensors.
FIELDS = (
    "name",
    "task",
    "method",
    "backbone",
    "tokenizer",
    "length",
    "steps",
    "early_step",
    "best_step",
    "score",
    "selection",
    "seed",
    "date",
    "sha256",
)


@dataclass(frozen=True)
class Entry:
    """A source: `facts` has FIELDS; the artefacts are read and checked when they are asked for."""

    folder: str
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.facts["name"]

    def value(self) -> Prompt:
        """What targets begin with."""
        return self._load(VALUE)

    def embedding(self) -> Prompt:
        """What stands for the task when tasks are compared."""
        return self._load(EMBEDDING)

    def _load(self, what: str) -> Prompt:
        prompt = load_prompt(f"{self.folder}/{what}")
        digest, recorded = prompt.manifest["sha256"], self.facts["sha256"][what]
        if digest != recorded:
            raise UserError(
                prompt.path,
                (
                    f"has SHA-256 {digest[:12]}, {self.folder}/{ENTRY} says {recorded[:12]}: it "
                    "was replaced"
                ),
                "remove the entry and embed the source again",
            )
        return prompt

    def differs(self, other: Mapping[str, Any]) -> str | None:
        """Why its prompts cannot be compared with those that `other` describes; None: they can.

        Compared are backbone, tokenizer and rows, as in `facts`.
        """
        own, wanted = self.facts, other
        if own["backbone"]["digest"] != wanted["backbone"]["digest"]:
            return (
                f"tuned for {own['backbone']['name']!r} ({own['backbone']['digest'][:12]}), not "
                f"for {wanted['backbone']['name']!r} ({wanted['backbone']['digest'][:12]})"
            )
        if own["tokenizer"] != wanted["tokenizer"]:
            return "tuned with another tokenizer"
        if own["length"] != wanted["length"]:
            return f"has rows {_rows(own['length'])}, not {_rows(wanted['length'])}"
        return None


def _rows(length: Mapping[str, int]) -> str:
    return " ".join(f"{side} {rows}" for side, rows in length.items())


@dataclass(frozen=True)
class Library:
    """A folder of entries."""

    folder: str

    def names(self) -> list[str]:
        """Sorted; UserError if there is no such folder."""
        base = epath.Path(self.folder)
        if not base.is_dir():
            raise UserError(f"--library={self.folder}", "no such folder", "`spot embed` makes one")
        return sorted(path.name for path in base.iterdir() if (path / ENTRY).exists())

    def entries(self) -> list[Entry]:
        """UserError if there is none, or one is damaged."""
        every = [self.read(name) for name in self.names()]
        if not every:
            raise UserError(f"--library={self.folder}", "no entries", "add some by `spot embed`")
        return every

    def read(self, name: str) -> Entry:
        """UserError with the names there are if this is none of them."""
        path = epath.Path(self.folder) / name / ENTRY
        if not NAME.fullmatch(name) or not path.exists():
            raise UserError(
                f"--library={self.folder}",
                f"no entry {name!r}",
                f"there are {', '.join(self.names())}",
            )
        return Entry(f"{self.folder}/{name}", _parse(path.read_text(), str(path)))

    def add(self, facts: Mapping[str, Any], value: Prompt, early: Mapping[str, Any]) -> Entry:
        """Writes an entry. `value`'s files are copied, `early` is {"arrays", "manifest"}.

        `facts`: FIELDS without `sha256`. The same entry again changes nothing.

        Raises:
          UserError: a bad name, or an entry with another value or embedding has it.
        """
        name = facts["name"]
        if not NAME.fullmatch(name):
            raise UserError(f"--name={name}", remedy="give letters, digits and . + - _ only")
        base = epath.Path(self.folder) / name
        if (base / ENTRY).exists():
            there = self.read(name)
            self._check_same(there, value, early)
            return there
        (base / VALUE).mkdir(parents=True, exist_ok=True)
        for file in (TENSORS, MANIFEST):
            (base / VALUE / file).write_bytes((epath.Path(value.path) / file).read_bytes())
        save_prompt(base / EMBEDDING, early["arrays"], early["manifest"])
        digest = load_prompt(base / EMBEDDING).manifest["sha256"]
        digests = {VALUE: value.manifest["sha256"], EMBEDDING: digest}
        whole = {"format_version": FORMAT_VERSION, **facts, "sha256": digests}
        (base / ENTRY).write_text(json.dumps(whole, indent=2) + "\n")
        return self.read(name)

    def _check_same(self, there: Entry, value: Prompt, early: Mapping[str, Any]) -> None:
        """UserError if the entry of that name has another value or another embedding."""
        facts = there.facts
        what = f"{there.name!r} is there"
        if facts["sha256"][VALUE] != value.manifest["sha256"]:
            raise UserError(
                f"--library={self.folder}",
                f"{what} ({facts['task']}, seed {facts['seed']}, step {facts['best_step']})",
                "give another --name, or remove it",
            )
        old, new = there.embedding().arrays, early["arrays"]
        rows = old.keys() == new.keys() and all(np.array_equal(old[n], new[n]) for n in old)
        step = early["manifest"]["step"]
        if not rows or step != facts["early_step"]:
            raise UserError(
                f"--library={self.folder}",
                f"{what} with another embedding, of step {facts['early_step']}, and this one is of "
                f"step {step}",
                "give another --name, or remove the entry",
            )


def load_value(path: str) -> Prompt:
    """The prompt at a path: an artefact, a `.npy`, or an entry of a library."""
    where = path.rstrip("/")
    if not where.endswith(".npy") and (epath.Path(where) / ENTRY).exists():
        return Entry(where, _parse((epath.Path(where) / ENTRY).read_text(), where)).value()
    return load_prompt(path)


def _parse(text: str, where: str) -> dict[str, Any]:
    facts = json_object(text, where, "embed the source again")
    if facts.get("format_version") != FORMAT_VERSION:
        raise UserError(where, f"not an entry of format version {FORMAT_VERSION}", "embed it again")
    for field in FIELDS:
        if field not in facts:
            raise UserError(where, f"field {field!r} is missing", "embed the source again")
    return facts
