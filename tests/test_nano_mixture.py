"""The mixture `nano_multitask`: its windows, its sizes, and that it holds no test texts."""

import csv
import io
import json
from pathlib import Path

import pytest

from prompt_jax.tasks import nano_forms, nano_mixture, official, text


@pytest.fixture
def real(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(shared / "data"))
    return shared / "data"


def test_windows_hold_what_they_must():
    context = " ".join(f"word{i}" for i in range(200)) + " in Paris , France ."
    start = context.index("Paris")
    for most in (1, 5, 30):
        window = nano_forms.window_with(context, start, start + 5, most)
        assert window is not None and "Paris" in window.split()
        assert len(window.split()) == most and window in context
    assert nano_forms.window_with(context, start, start + 14, 2) is None
    passage = "Rain falls. " * 30 + "The miller sold flour. " + "Rain falls. " * 30
    assert "The miller sold flour." in nano_forms.best_window(passage, "Who sold flour?", 8)
    assert nano_forms.best_window("two words", "none", 8) == "two words"


def test_the_members_of_the_mixture(real):
    rates = text.mixture_rates("nano_multitask")
    assert set(rates) == {f"nano_{name}" for name in nano_mixture.MEMBERS}
    for name, member in nano_mixture.MEMBERS.items():
        assert rates[f"nano_{name}"] == min(member.rows, nano_mixture.MAX_RATE)
        if name != "multirc":  # its windows take ten seconds
            rows = nano_mixture.member_rows(member, "train")
            assert len(rows) == member.rows, name
            assert max(len(row["inputs"].split()) for row in rows) <= member.words


RUN = 8


def words_of(line: str) -> tuple[str, ...]:
    return tuple("".join(c if c.isalnum() else " " for c in line.lower()).split())


def downstream(real: Path) -> set[str]:
    """Texts of what nano is tested on."""
    found = set()
    for name in ("glue_sst2", "sst5", "mr", "trec", "ag_news", "glue_cola", "e2e_nlg"):
        for split in text.get_task(f"taskless_{name}").source.present():  # type: ignore
            for row in text.load_examples(f"taskless_{name}", split)[f"taskless_{name}"]:
                found |= {row["inputs"].split(": ", 1)[1], *row.get("answers", ())}
    for data in ("RTE", "CB", "WiC"):
        for path in (real / "superglue" / data).iterdir():
            for line in path.read_text().splitlines():
                found |= {v for v in json.loads(line).values() if isinstance(v, str)}
    for split in ("dev", "test"):
        content = official.read_bytes(official.epath.Path(real / f"xtreme/xnli/{split}-en.tsv.gz"))
        for row in csv.reader(
            io.StringIO(content.decode()), delimiter="\t", quoting=csv.QUOTE_NONE
        ):
            found |= set(row[:2])
    return found


@pytest.mark.slow
def test_the_mixture_shares_no_texts_with_what_nano_is_tested_on(real):
    runs = set()
    for line in downstream(real):
        words = words_of(line)
        for start in range(len(words) - RUN + 1):
            runs.add(words[start : start + RUN])
    assert len(runs) > 500_000
    for name, member in nano_mixture.MEMBERS.items():
        for row in nano_mixture.member_rows(member, "train"):
            words = words_of(row["inputs"])
            shared = [w for w in zip(*(words[i:] for i in range(RUN)), strict=False) if w in runs]
            assert not shared, (name, row["inputs"])
