"""Progress of what may take minutes: shown only inside `shown`, every few seconds, with an ETA."""

import re
import time

import pytest

from prompt_jax import progress
from prompt_jax.backbone.load import load_backbone


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)


def test_reading_and_hashing_a_backbone_tell_what_is_left(at_once):
    lines: list[str] = []
    with progress.shown(lines.append):
        load_backbone("nano")
    assert re.fullmatch(r"reading weights: 1 of \d+ arrays  ETA \d+:\d\d", lines[0])
    assert any(line.startswith("digest of the weights: 2 of ") for line in lines)


def test_nothing_is_shown_to_nobody(at_once, capsys):
    counter = progress.Counter("answering", 9, "rows")
    for _ in range(9):
        counter.add()
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_counted_says_how_long_it_takes(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    lines = []
    slow = progress.first_call(lambda seconds: time.sleep(seconds), "compiling")
    with progress.shown(lines.append):
        slow(0.3)
        said = len(lines)
        slow(0.3)
    assert said and len(lines) == said, "the first call alone"
    assert lines[0] == "compiling: 0:00 so far"
