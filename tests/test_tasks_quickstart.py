import subprocess
import sys
from collections import Counter

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import cldr_names, emoji_topic, quickstart, text

QUICK = {
    "vader_polarity": (5000, 60.0),
    "vader_polarity_all": (6500, 60.0),
    "empath_topic": (1000, 20.0),
    "cldr_language": (4000, 12.5),
    "cldr_kind": (1600, 40.0),
    "emoji_topic_en": (1700, 25.0),
    "emoji_topic_ko": (1700, 25.0),
}


@pytest.mark.parametrize("name", QUICK)
def test_quickstart_sets_share_no_family_between_splits(name):
    at_least, majority_at_most = QUICK[name]
    splits = {split: text.load_examples(name, split)[name] for split in quickstart.SPLITS}
    families = [{row["family"] for row in rows} for rows in splits.values()]
    assert not (families[0] & families[1] or families[0] & families[2] or families[1] & families[2])
    every = [row for rows in splits.values() for row in rows]
    assert len(every) >= at_least and len({row["inputs"] for row in every}) == len(every)
    for rows in splits.values():
        counts = Counter(row["targets"] for row in rows)
        assert set(counts) == set(text.CHOICES[name])
        assert 100 * max(counts.values()) / len(rows) <= majority_at_most
        assert len(rows) >= 0.07 * len(every)


def test_words_of_one_family_go_together():
    families = [["abandon", "abandoned", "Abandons"], ["love", "loving", "loved", "lovely"]]
    families += [["joy", "joyful", "joyous"], ["hate", "hated", "hateful"]]
    for words in families:
        assert len({quickstart.word_family(word) for word in words}) == 1


def test_known_answers():
    polarity = {word: target for _, word, target in quickstart.vader_entries(1.0)}
    assert (polarity["excellent"], polarity["horrible"]) == ("positive", "negative")
    assert all(word.isalpha() for word in polarity)
    topic = {word: target for _, word, target in quickstart.empath_entries()}
    assert (topic["violin"], topic["priest"]) == ("music", "religion")
    language = {name: target for _, name, target in quickstart.cldr_language_entries()}
    assert (language["Griechenland"], language["Yunanistan"]) == ("German", "Turkish")
    kind = {name: target for _, name, target in quickstart.cldr_kind_entries()}
    assert (kind["Bulgaria"], kind["Japanese Yen"]) == ("territory", "currency")
    assert "Arabic" not in kind  # a language and a script


def test_names_of_emoji_are_the_same_in_every_language():
    names = {}
    for language in ("en", "de", "zh"):
        names[language] = list(emoji_topic.entries(language))
    assert len({len(rows) for rows in names.values()}) == 1
    for english, *others in zip(*names.values(), strict=True):
        assert all((other[0], other[2]) == (english[0], english[2]) for other in others)
    assert ("red apple", "roter apfel", "food") in {
        (one[1], other[1], one[2]) for one, other in zip(names["en"], names["de"], strict=True)
    }
    assert emoji_topic.family("woman cook") == emoji_topic.family("cook")


def test_names_in_a_language_are_chosen_among_those_in_all_languages():
    (rows,) = text.load_examples("cldr_name_currency_de", "train").values()
    (row,) = [row for row in rows if row["inputs"] == "British Pound"]
    assert row["targets"] == "Britisches Pfund"
    choices = set(row["choices"])
    assert len(choices) == 13 and {"British Pound", "英镑", "英国ポンド"} <= choices
    splits = [cldr_names.rows(s, kind="currency", language="hi") for s in ("train", "test")]
    train, test = ({row["inputs"] for row in rows} for rows in splits)
    assert len(train) > 90 and len(test) > 35 and not train & test


def test_a_mixture_holds_three_pairs_back():
    seen, unseen = (text.mixture_rates(f"x_gen_names{end}") for end in ("", "_unseen"))
    assert set(unseen) == {f"cldr_name_currency_{ll}" for ll in ("hi", "tr", "vi")}
    assert len(seen) == 3 * 13 - 3 and not set(seen) & set(unseen)
    rates = text.mixture_rates("x_gen_names_and_text")
    texts = sum(rate for name, rate in rates.items() if name.startswith("unlabelled_"))
    assert texts / sum(rates.values()) == pytest.approx(0.1)


def test_a_missing_package_is_named(monkeypatch):
    def absent(name: str):
        raise quickstart.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(quickstart.importlib.metadata, "distribution", absent)
    with pytest.raises(UserError, match="vaderSentiment: not installed; run pip install") as error:
        text.load_examples("vader_polarity", "train")
    assert error.value.remedy == "run pip install 'prompt-jax[quickstart]'"


BASE_INSTALL = """
import importlib.metadata as metadata, sys
ABSENT = {"babel", "emoji", "emojis", "empath", "vadersentiment"}
sys.modules |= dict.fromkeys(ABSENT)
find = metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name.lower() in ABSENT:
        raise metadata.PackageNotFoundError(name)
    return find(cls, name)
metadata.Distribution.from_name = classmethod(from_name)
from prompt_jax.cli.main import main
assert main(["tasks", "check", sys.argv[1]]) == 0
assert main(["tasks", "show", "cldr_kind"]) == 2
"""


@pytest.mark.slow
def test_the_base_install_reads_files(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("inputs,targets\na b,yes\nc d,no\n" * 4)
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, str(rows)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Babel: not installed; run pip install 'prompt-jax[quickstart]'" in done.stderr
