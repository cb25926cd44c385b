"""XTREME (Hu et al. 2020, https://arxiv.org/abs/2003.11080), and XCOPA of XTREME-R, as text.

A task for each language, which is the last part of its name, and a mixture over languages:

  xtreme_xnli_sw                     zero-shot: English alone has `train`; every language has the
  xtreme_xnli                        `validation` and `test` that the benchmark has
  xtreme_panx_in_language_sw         `train` in the language itself: udpos where a treebank has one,
  xtreme_panx_in_language            panx and tydiqa in all their languages
  xtreme_xnli_translate_train_sw     `train` as XTREME translated it from English: xnli, pawsx,
  xtreme_xnli_translate_train        xquad, mlqa (whose training set is XQuAD's) and tydiqa, from
                                     TFDS alone; in xquad and mlqa `validation` is translated too,
                                     but for MLQA's own
  xtreme_udpos_token_sw              UDPOS and PAN-X with a row for each word (ToPro)
  xtreme_udpos_word_sw               UDPOS with a row for each word and its neighbours

The mixtures in_language and translate_train hold English as well, at the same rate as any other
language, as in mT5. A split trains or is scored where it is there: the zero-shot mixture trains on
English, and `--task=xtreme_xnli --split=test` prints every language, their mean and the gap to
English. How rows are written is in `xtreme_forms`, what is read in `xtreme_sets`. BUCC needs the
mode `mine` and Tatoeba `retrieve` (`xtreme_pairs`).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import seqio
from etils import epath

from prompt_jax.metrics.qa import mlqa, squad
from prompt_jax.metrics.retrieval import mined_f1, mining_target
from prompt_jax.metrics.tags import grouped, named_f1, span_f1, tag_accuracy, tag_f1
from prompt_jax.metrics.text import accuracy
from prompt_jax.tasks import xtreme_forms as forms
from prompt_jax.tasks import xtreme_pairs as pairs
from prompt_jax.tasks import xtreme_sets as sets
from prompt_jax.tasks.official import DataSet, describe, find, place_of, version_of
from prompt_jax.tasks.rows import Form, Row, read_rows
from prompt_jax.tasks.text import RowsSource, add_task

Reader = Callable[[DataSet], list[Row]]
Setting = Callable[[str], sets.Parts]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One task of the benchmark in all its languages.

    Attributes:
      languages: the languages that the benchmark averages over.
      read: a data set of one split -> its rows.
      metrics: (language) -> the metrics.
      zero_shot: (language) -> the splits of the task `xtreme_NAME_LANGUAGE`.
      settings: the same of `xtreme_NAME_SETTING_LANGUAGE`, by setting; {} where there is none.
      choices: the targets, if they are labels.
      postprocess: see `add_task`.
      note: what else to know of its rows.
      count: its rows -> how many published records they are of; None: not known.
    """

    languages: Sequence[str]
    read: Reader
    metrics: Callable[[str], list[Callable]]
    zero_shot: Setting
    settings: dict[str, Setting] | None = None
    choices: Sequence[str] | None = None
    postprocess: Callable | None = None
    note: str = ""
    count: Callable[[list[Row]], int] | None = len


def in_form(form: Form, gather: Callable[[list[Row]], list[Row]] = list) -> Reader:
    """Reads the rows that a form makes of the records of a data set."""

    def read(data: DataSet) -> list[Row]:
        (split,) = data.files
        return gather(list(read_rows(data, split, form)))

    return read


def always(*metrics: Callable) -> Callable[[str], list[Callable]]:
    """The same metrics in every language."""
    return lambda language: list(metrics)


QUESTIONS = in_form(forms.question)
FAMILIES = {
    "xnli": Family(
        languages=sets.XNLI_LANGUAGES,
        read=in_form(forms.nli),
        metrics=always(accuracy),
        zero_shot=sets.xnli,
        settings={"translate_train": sets.xnli_translated},
        choices=forms.NLI,
    ),
    "pawsx": Family(
        languages=sets.PAWSX_LANGUAGES,
        read=in_form(forms.paws),
        metrics=always(accuracy),
        zero_shot=sets.pawsx,
        settings={"translate_train": sets.pawsx_translated},
        choices=forms.PAWS,
    ),
    "udpos": Family(
        languages=tuple(sets.UDPOS_SIZES),
        read=in_form(forms.parts_of_speech),
        metrics=always(tag_accuracy, tag_f1),
        zero_shot=sets.udpos,
        settings={"in_language": sets.udpos_in_language},
        postprocess=forms.tags_by_number,
    ),
    "udpos_token": Family(
        languages=tuple(sets.UDPOS_SIZES),
        read=in_form(forms.by_token("pos tag", forms.POS_WORDS), forms.number_sentences),
        metrics=always(grouped(tag_accuracy), grouped(tag_f1)),
        zero_shot=sets.udpos,
        choices=tuple(forms.POS_WORDS.values()),
        postprocess=forms.tag_of_word(forms.POS_WORDS),
        note="sizes are sentences; a row for each word",
        count=forms.sentences,
    ),
    "udpos_word": Family(
        languages=tuple(sets.UDPOS_SIZES),
        read=in_form(forms.by_window(forms.POS_WORDS), forms.number_sentences),
        metrics=always(grouped(tag_accuracy), grouped(tag_f1)),
        zero_shot=sets.udpos,
        choices=tuple(forms.POS_WORDS.values()),
        postprocess=forms.tag_of_word(forms.POS_WORDS),
        note="sizes are sentences; a row for each word and its neighbours",
        count=forms.sentences,
    ),
    "panx": Family(
        languages=tuple(sorted(sets.PANX_SIZES)),
        read=in_form(forms.names),
        metrics=always(named_f1),
        zero_shot=sets.panx,
        settings={"in_language": sets.panx_in_language},
        postprocess=forms.names_said,
    ),
    "panx_token": Family(
        languages=tuple(sorted(sets.PANX_SIZES)),
        read=in_form(forms.by_token("named entity", forms.ENTITY_WORDS), forms.number_sentences),
        metrics=always(grouped(span_f1)),
        zero_shot=sets.panx,
        choices=tuple(forms.ENTITY_WORDS.values()),
        postprocess=forms.tag_of_word(forms.ENTITY_WORDS),
        note="sizes are sentences; a row for each word",
        count=forms.sentences,
    ),
    "xquad": Family(
        languages=sets.XQUAD_LANGUAGES,
        read=QUESTIONS,
        metrics=always(squad),
        zero_shot=sets.xquad,
        settings={"translate_train": sets.xquad_translated},
        postprocess=forms.answer_said,
    ),
    "mlqa": Family(
        languages=tuple(sets.MLQA_SIZES),
        read=QUESTIONS,
        metrics=lambda language: [mlqa(language)],
        zero_shot=sets.mlqa,
        settings={"translate_train": sets.mlqa_translated},
        postprocess=forms.answer_said,
    ),
    "tydiqa": Family(
        languages=tuple(sets.TYDIQA_SIZES),
        read=QUESTIONS,
        metrics=always(squad),
        zero_shot=sets.tydiqa,
        settings={
            "in_language": sets.tydiqa_in_language,
            "translate_train": sets.tydiqa_translated,
        },
        postprocess=forms.answer_said,
    ),
    "bucc": Family(
        languages=pairs.BUCC_LANGUAGES,
        read=pairs.bucc_rows,
        metrics=always(mined_f1),
        zero_shot=pairs.bucc,
        count=None,
        postprocess=mining_target,
    ),
    "tatoeba": Family(
        languages=tuple(pairs.TATOEBA_LANGUAGES),
        read=pairs.tatoeba_rows,
        metrics=always(accuracy),
        zero_shot=pairs.tatoeba,
    ),
    "xcopa": Family(
        languages=sets.XCOPA_LANGUAGES,
        read=in_form(forms.copa),
        metrics=always(accuracy),
        zero_shot=sets.xcopa,
        choices=forms.COPA,
    ),
}


def where(data: DataSet) -> str | None:
    """What the one split of a data set is read from: its file, or its part of a TFDS folder."""
    (split,) = data.files
    found = find(data, split, os.environ.get("PROMPT_JAX_DATA_DIR"))
    place = place_of(data, found)
    if place is None or isinstance(found, tuple):
        return place
    return place if any(epath.Path(place).glob(f"*-{split}.*")) else None


def source_of(
    parts: sets.Parts,
    read: Reader,
    note: str = "",
    count: Callable[[list[Row]], int] | None = len,
) -> RowsSource:
    """A SeqIO source whose splits are data sets of their own."""
    splits_of: dict[str, list[str]] = {}
    for split, data in parts.items():
        splits_of.setdefault(describe(data), []).append(split)
    rows = {split: size for split, data in parts.items() for size in data.sizes.values()}
    described = [f"{', '.join(splits)}: {text}" for text, splits in splits_of.items()]
    described += [note] if note else []
    return RowsSource(
        lambda split: read(parts[split]),
        tuple(parts),
        " | ".join(described),
        "; ".join(dict.fromkeys(data.licence for data in parts.values())),
        rows or None,
        lambda split: where(parts[split]),
        "; ".join(dict.fromkeys(version_of(data) for data in parts.values())),
        count,
    )


def register(name: str, family: Family, setting: Setting) -> list[str]:
    """Registers the task of each language that has the setting; their names."""
    tasks = {f"{name}_{language}": setting(language) for language in family.languages}
    for (task, parts), language in zip(tasks.items(), family.languages, strict=True):
        if parts:
            source = source_of(parts, family.read, family.note, family.count)
            metrics = family.metrics(language)
            add_task(task, source, [], metrics, family.choices, family.postprocess)
    return [task for task, parts in tasks.items() if parts]


for _name, _family in FAMILIES.items():
    _settings = {"": _family.zero_shot, **(_family.settings or {})}
    for _kind, _setting in _settings.items():
        _mixture = f"xtreme_{_name}_{_kind}".rstrip("_")
        _tasks = register(_mixture, _family, _setting)
        _english = [f"xtreme_{_name}_en"] if _kind else []
        seqio.MixtureRegistry.add(_mixture, [(task, 1.0) for task in _english + _tasks])
