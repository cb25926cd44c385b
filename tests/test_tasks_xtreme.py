# ruff: noqa: RUF001 (Chinese has its own punctuation)
from pathlib import Path

import pytest
import seqio

from prompt_jax.errors import UserError
from prompt_jax.metrics.aggregate import XTREME, XTREME_NAME
from prompt_jax.tasks import text, xtreme, xtreme_forms
from prompt_jax.tasks.text import RowsSource
from prompt_jax.tasks.xtreme_sets import PANX_SIZES, UDPOS_SIZES


@pytest.fixture
def real(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(shared / "data"))
    return shared / "data"


def rows_of(name: str, split: str) -> list[dict]:
    return text.load_examples(f"xtreme_{name}", split)[f"xtreme_{name}"]


def source_of(name: str) -> RowsSource:
    source = seqio.TaskRegistry.get(f"xtreme_{name}").source
    assert isinstance(source, RowsSource)
    return source


# ---- names, settings, languages ----

LANGUAGES = {
    "xnli": 15,
    "pawsx": 7,
    "udpos": 33,
    "panx": 40,
    "xquad": 11,
    "mlqa": 7,
    "tydiqa": 9,
    "bucc": 4,
    "tatoeba": 36,
    "xcopa": 12,
    "udpos_token": 33,
    "panx_token": 40,
    "udpos_word": 33,
    "xnli_translate_train": 15,
    "pawsx_translate_train": 7,
    "xquad_translate_train": 11,
    "mlqa_translate_train": 7,
    "tydiqa_translate_train": 9,
    "tydiqa_in_language": 9,
    "panx_in_language": 40,
    "udpos_in_language": 30,
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_mixture_over_the_languages_of_each_setting(name):
    text.import_bundled()
    tasks = seqio.MixtureRegistry.get(f"xtreme_{name}").tasks
    assert len(tasks) == LANGUAGES[name]
    trained = {task.name for task in tasks if "train" in task.splits}
    if name.endswith(("_in_language", "_translate_train")):
        assert trained == {task.name for task in tasks}
    else:
        assert trained == {f"xtreme_{name}_en"} & {task.name for task in tasks}


def test_every_task_states_source_licence_and_its_place_in_the_average():
    text.import_bundled()
    names = [name for name in seqio.TaskRegistry.names() if name.startswith("xtreme_")]
    families = set()
    for name in names:
        source = source_of(name.removeprefix("xtreme_"))
        assert source.licence and str(source), name
        assert set(source.rows or ()) <= set(source.splits)
        if match := XTREME_NAME.search(name):
            families.add(match[1])
            assert name.endswith(f"_{match[2]}")
    assert families == set(XTREME)


METRICS = {
    "xnli_sw": ["accuracy"],
    "pawsx_ko": ["accuracy"],
    "udpos_de": ["tag_accuracy", "tag_f1"],
    "udpos_token_de": ["grouped", "grouped"],
    "udpos_word_de": ["grouped", "grouped"],
    "panx_sw": ["named_f1"],
    "panx_token_sw": ["grouped"],
    "xquad_de": ["squad"],
    "mlqa_zh": ["mlqa"],
    "tydiqa_sw": ["squad"],
    "bucc_zh": ["mined_f1"],
    "tatoeba_sw": ["accuracy"],
    "xcopa_qu": ["accuracy"],
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_attached(name):
    text.import_bundled()
    task = seqio.TaskRegistry.get(f"xtreme_{name}")
    assert [seqio.utils.function_name(metric) for metric in task.metric_fns] == METRICS[name]


# ---- official files ----

PUBLISHED = [
    ("xnli_sw", "validation", 2490),
    ("xnli_de", "test", 5010),
    ("pawsx_ko", "validation", 2000),
    ("pawsx_de", "test", 2000),
    ("udpos_mr", "validation", 46),
    ("udpos_te", "test", 146),
    ("udpos_in_language_mr", "train", 373),
    ("panx_sw", "validation", 1000),
    ("panx_yo", "validation", 100),
    ("panx_in_language_yo", "train", 100),
    ("xquad_de", "test", 1190),
    ("xquad_th", "test", 1190),
    ("mlqa_zh", "validation", 504),
    ("mlqa_de", "validation", 512),
    ("tydiqa_in_language_ko", "train", 1625),
    ("tatoeba_sw", "test", 390),
    ("tatoeba_de", "test", 1000),
    ("xcopa_qu", "validation", 100),
    ("xcopa_zh", "test", 500),
    ("xcopa_en", "train", 400),
]


def test_official_files_have_their_published_sizes(real):
    text.import_bundled()
    for name, split, size in PUBLISHED:
        source = source_of(name)
        assert split in source.present(), name
        assert source.rows is not None and source.rows[split] == size, name
        assert source.num_input_examples(split) == size, name


def test_bucc_offers_every_sentence(real):
    rows = rows_of("bucc_zh", "validation")
    paired = [row for row in rows if row["inputs"] and row["targets"]]
    assert len(paired) == 257
    assert sum(bool(row["inputs"]) for row in rows) == 8624
    assert sum(bool(row["targets"]) for row in rows) == 13589
    assert paired[0]["inputs"] == "在突尼斯的1000万人口中，该国最大报纸的发行量是大约5万份。"
    assert paired[0]["targets"].startswith("In Tunisia, the largest newspaper has a circulation")


FIRST = {
    "xnli_sw": (
        "validation",
        "xnli: premise: Naye akasema, Mama, niko nyumbani. hypothesis: Alimwita mama yake mara tu "
        "basi ya shule ilipomshukisha.",
        "neutral",
    ),
    "pawsx_de": (
        "validation",
        "paws sentence1: Durch die Zusammenlegung des Four Rivers Council und des Audubon Council "
        "entstand der Shawnee Trails Council. sentence2: Shawnee Trails Council entstand durch die "
        "Fusion zwischen dem Four Rivers Council und dem Audubon Council.",
        "paraphrase",
    ),
    "udpos_mr": ("validation", "udpos: 1 थापा 2 मार 3 !", "1 NOUN 2 VERB 3 PUNCT"),
    "udpos_token_mr": ("validation", "थापा मार ! The pos tag of थापा is a kind of:", "thing"),
    "udpos_word_mr": ("validation", "थापा in: थापा मार", "thing"),
    "panx_sw": (
        "validation",
        "tag: Khartoum , Sudan - miloni 3.2",
        "LOC: Khartoum $$ LOC: Sudan",
    ),
    "panx_token_yo": (
        "validation",
        "Ilé-ìgbìmọ̀ Aṣòfin Oníbínibí ilẹ̀ Nàìjíríà The named entity of Ilé-ìgbìmọ̀ is a kind of:",
        "organisation",
    ),
    "mlqa_zh": (
        "validation",
        "question: 吉尔吉斯斯坦的主要宗教为什么是伊斯兰教 ？ "
        "context: 吉尔吉斯斯坦的主要宗教是伊斯兰教 ， 但宪法保障宗教自由 。 "
        "吉尔吉斯斯坦的宗教有伊斯兰教 （ 包括逊尼派 、 什叶派和阿赫迈底亚 ） 、 佛教 、 "
        "巴哈伊教 、 基督宗教 （ 包括俄罗斯正教会 、 "
        "罗马天主教和基督复临安息日会 ） 、 犹太教和其他宗教 。 "
        "逊尼派伊斯兰教是吉尔吉斯斯坦的主要宗教教派 ， 占75 - 80 ％ 的人口 。 ",
        "宪法保障宗教自由",
    ),
    "tydiqa_in_language_ko": (
        "train",
        "question: 2019년까지 월드컵은 몇개국에서 개최되었는가 ? context: 2019년 FIFA U - 20 "
        "월드컵 < / b > 은 2019년 5월 23일부터 "
        "6월 15일까지 폴란드에서 개최될 예정인 22번째 FIFA U - 20 "
        "월드컵이다 . ",
        "예정",
    ),
    "xcopa_sw": (
        "validation",
        "copa choice1: Choo kilijaa maji. choice2: Maji yalitiririka kutoka kwenye bomba. premise: "
        "Mwanaume alifungua bomba la maji. question: effect",
        "choice2",
    ),
    "tatoeba_sw": ("test", "Alinileta kahawa.", "He brought me coffee."),
    "bucc_zh": ("validation", "辽宁省，简称辽，舊稱奉天省，中國的一个省，省會位于沈阳市。", ""),
}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_example(name, real):
    split, inputs, targets = FIRST[name]
    first = rows_of(name, split)[0]
    assert (first["inputs"], first["targets"]) == (inputs, targets)


def test_the_first_question_of_xquad(real):
    first = rows_of("xquad_de", "test")[0]
    assert first["inputs"].startswith(
        "question: Wie viele Punkte gab die Verteidigung der Panthers ab ? context: Die "
        "Verteidigung der Panthers gab nur 308 Punkte ab und belegte den sechsten Platz in der Liga"
    )
    assert (first["targets"], first["answers"]) == ("308", ["308"])


def test_the_substitute_for_pawss_training_set_is_named(real):
    source = source_of("pawsx_en")
    assert source.num_input_examples("train") == 3989
    assert "3989 pairs" in str(source)


# ---- prepared TFDS ----


@pytest.mark.parametrize("name, split", [("panx_sw", "validation"), ("tatoeba_sw", "test")])
def test_prepared_tfds_gives_the_same_rows(name, split, real, tmp_path, monkeypatch):
    wanted = {(row["inputs"], row["targets"]) for row in rows_of(name, split)}
    (tmp_path / "tfds").symlink_to((real / "tfds").resolve())
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    assert source_of(name).present() == [split]
    assert {(row["inputs"], row["targets"]) for row in rows_of(name, split)} == wanted


def test_tags_of_prepared_tfds_have_names(real, tmp_path, monkeypatch):
    (tmp_path / "tfds").symlink_to((real / "tfds").resolve())
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    assert source_of("udpos_mr").present() == ["validation", "test"]
    read = [(row["inputs"], row["targets"]) for row in rows_of("udpos_mr", "validation")]
    assert len(read) == 46
    assert ("udpos: 1 थापा 2 मार 3 !", "1 NOUN 2 VERB 3 PUNCT") in read


def test_tables_of_languages_agree_with_the_forms():
    assert len(xtreme_forms.POS_WORDS) == len(set(xtreme_forms.POS_WORDS.values())) == 17
    assert set(xtreme_forms.ENTITY_WORDS) == set(xtreme_forms.PANX_TAGS)
    assert len(set(xtreme_forms.ENTITY_WORDS.values())) == 7
    assert set(xtreme.FAMILIES["udpos"].languages) == set(UDPOS_SIZES)
    assert set(UDPOS_SIZES) <= set(PANX_SIZES)


def test_udpos_from_official_conllu(shared, tmp_path, monkeypatch):
    """The sentences of the treebanks are those of XTREME's files; all treebanks are read."""
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(shared / "data"))
    name = "xtreme_udpos_mr"
    tsv = text.load_examples(name, "test")[name]
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    treebanks = tmp_path / "ud-treebanks-v2.5"
    treebanks.symlink_to((shared / "data" / "ud-treebanks-v2.5").resolve())
    conllu = text.load_examples(name, "test")[name]
    assert len(conllu) == len(tsv) == 47
    assert [row["targets"] for row in conllu] == [row["targets"] for row in tsv]
    english = text.load_examples("xtreme_udpos_en", "test")["xtreme_udpos_en"]
    assert len(english) == 1000 + 153  # PUD and ParTUT
    treebanks.unlink()
    bad = treebanks / "UD_Yoruba-YTB" / "yo_ytb-ud-test.conllu"
    bad.parent.mkdir(parents=True)
    bad.write_text("# text = a\n1-2\tab\t_\t_\t_\t_\t_\t_\t_\t_\n1\ta\t_\tDET\t_\n\n")
    with pytest.raises(UserError, match=r"yo_ytb-ud-test\.conllu:1: 5 columns in a line of this"):
        text.load_examples("xtreme_udpos_yo", "test")
