"""A file of answers that is appended to, and goes on where a killed run left it."""

import contextlib
import fcntl
import json
import os
from collections.abc import Sequence
from typing import IO, Any

from etils import epath

from prompt_jax.contents import json_object
from prompt_jax.errors import UserError
from prompt_jax.paths import is_local, writing


class Output:
    """The output file: whole lines, one writer, made by one set of settings.

    `flag` names it in messages. `OUTPUT.settings.json` beside it holds the settings; others are
    refused. A bucket cannot append: there the file is written anew with every window.
    """

    def __init__(self, path: str, settings: dict[str, Any], flag: str):
        self.path, self.settings, self.flag = epath.Path(path), settings, flag
        self.lines: list[bytes] = []
        self.file: IO[bytes] | None = None

    def __enter__(self) -> "Output":
        if is_local(self.path):
            with writing(self.path, self.flag):
                self.file = open(self.path, "ab")
            with contextlib.ExitStack() as undo:
                undo.callback(self.file.close)
                self._lock(self.file)
                self._open()
                undo.pop_all()
        else:
            self._open()
        return self

    def __exit__(self, *_) -> None:
        if self.file:
            self.file.close()

    def _lock(self, file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                self.path,
                "is being written by another process",
                f"wait, or give another {self.flag}",
            ) from None

    def _open(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self.lines = whole.splitlines(keepends=True)
        beside = self.path.parent / f"{self.path.name}.settings.json"
        if self.lines:
            if not beside.exists():
                raise UserError(
                    self.path,
                    "exists, but the settings that belong beside it do not",
                    f"give another {self.flag}",
                )
            before = json_object(beside.read_bytes(), beside, f"give another {self.flag}")
            for name, value in self.settings.items():
                if before.get(name) != value:
                    raise UserError(
                        self.path,
                        f"was made with {name} = {before.get(name)}, this is {value}",
                        f"give another {self.flag}",
                    )
        else:
            beside.write_text(json.dumps(self.settings, indent=2) + "\n")
        if self.file:
            self.file.truncate(len(whole))

    def check(self, rows: Sequence[dict], first: int) -> int:
        """How many rows are there; UserError where one is not that of the input."""
        for number, (line, row) in enumerate(zip(self.lines, rows, strict=False)):
            try:
                there = json.loads(line)
                same = (there["row"], there["inputs"]) == (first + number, row["inputs"])
            except (ValueError, KeyError, TypeError, RecursionError):
                same = False
            if not same:
                raise UserError(
                    f"{self.path}:{number + 1}",
                    f"not row {first + number} of the input",
                    f"give another {self.flag}",
                )
        if len(self.lines) > len(rows):
            raise UserError(
                self.path,
                f"has {len(self.lines)} rows, the input {len(rows)}",
                f"give another {self.flag}",
            )
        return len(self.lines)

    def append(self, rows: Sequence[dict]) -> None:
        """Adds rows, on disk when this returns."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if self.file is None:
            self.lines.append(text)
            self.path.write_bytes(b"".join(self.lines))
            return
        self.file.write(text)
        self.file.flush()
        os.fsync(self.file.fileno())
