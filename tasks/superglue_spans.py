"""SuperGLUE's WSC and ReCoRD, whose targets are spans of the text, as T5 writes them.

WSC marks the pronoun ("... if *he* could ...") and asks for whom it means. Only rows whose span is
right are trained on; at validation the generated text counts as "True" where it names the span
(`prompt_jax.metrics.qa.wsc_match`), and that is compared with the label. ReCoRD has a training row
for each right entity; a query is scored once, by its best answer.
"""

import json
import re
from collections.abc import Iterator

from prompt_jax.metrics.qa import record, record_answer, wsc_match
from prompt_jax.metrics.text import UNLABELLED, accuracy
from prompt_jax.tasks.layouts import JSONL, Record, pick
from prompt_jax.tasks.official import DataSet, File
from prompt_jax.tasks.rows import Row, register_rows
from prompt_jax.tasks.superglue import FILES, HOME, VERSION

WSC = DataSet(
    folder="superglue/WSC",
    files={split: File(name, JSONL) for split, name in FILES.items()},
    tfds="super_glue/wsc.fixed:1.0.2",
    home=HOME,
    licence="CC BY 4.0",
    sizes={"train": 259, "validation": 104, "test": 146},
    version=VERSION,
    note="the 259 rows of 554 whose span is right are trained on",
)
RECORD = DataSet(
    folder="superglue/ReCoRD",
    files={split: File(name, JSONL) for split, name in FILES.items()},
    tfds="super_glue/record:1.0.2",
    home=HOME,
    licence="Apache-2.0",
    sizes={"train": 100730, "validation": 10000, "test": 10000},
    version=VERSION,
    note="sizes are queries; a row for each right entity",
)

# ---- WSC ----


def referents(example: Record) -> Iterator[Row]:
    """A row of WSC, from the official file or from TFDS."""
    spans = example.get("target", example)
    passage = pick(example, "text", str)
    label = example.get("label", -1)
    if label not in (True, False, -1):
        raise ValueError(f"'label' is {json.dumps(label)[:40]}, not true or false")
    pronoun, place = pick(spans, "span2_text", str), pick(spans, "span2_index", int)
    yield {
        "inputs": mark_pronoun(passage, pronoun, place),
        "targets": spelled_as_in(passage, pick(spans, "span1_text", str)),
        "label": int(label),
        "idx": pick(example, "idx", int),
    }


def right_referents(example: Record) -> Iterator[Row]:
    """The row if its span is what the pronoun means."""
    yield from (row for row in referents(example) if row["label"] == 1)


def mark_pronoun(passage: str, pronoun: str, place: int) -> str:
    """The passage with the pronoun, its word number `place`, between asterisks.

    In a few rows the next word is meant, or punctuation follows without a blank.

    >>> mark_pronoun("Mitchell asked Tom if he could lend some money.", "he", 4)
    'Mitchell asked Tom if *he* could lend some money.'
    """
    words = passage.rstrip(" ").split(" ")
    for at in (place, place + 1):
        if at < len(words) and re.fullmatch(rf"{re.escape(pronoun)}\W*", words[at]):
            after = words[at][len(pronoun) :]
            marked = [f"*{pronoun}*", *([after] if after else [])]
            return " ".join([*words[:at], *marked, *words[at + 1 :]])
    raise ValueError(f"word {place} of the text is not '{pronoun}'")


def spelled_as_in(passage: str, span: str) -> str:
    """The span in the case and spacing that it has in the passage, if it stands there.

    >>> spelled_as_in("The city councilmen refused.", "the city councilmen.")
    'The city councilmen'
    """
    words = [re.escape(word) for word in span.rstrip(".").split()]
    exact = re.search(re.escape(span), passage)
    match = exact or re.search(r"\s+".join(words), passage, re.IGNORECASE)
    return match.group() if match else span


register_rows(
    "super_glue_wsc",
    WSC,
    {"train": right_referents, "validation": referents, "test": referents},
    [accuracy],
    "wsc:",
    wsc_match("targets"),
)

# ---- ReCoRD ----


def queries(example: Record) -> Iterator[Row]:
    """Rows of one passage of the official file, or of one query of TFDS."""
    if "qas" not in example:
        yield from _query_rows(
            example["passage"],
            example["query"],
            example["entities"],
            example["answers"],
            (example["idx"]["passage"], example["idx"]["query"]),
        )
        return
    passage = pick(example, "passage", dict)
    text = pick(passage, "text", str)
    spans = pick(passage, "entities", list)
    places = [(pick(span, "start", int), pick(span, "end", int)) for span in spans]
    entities = sorted({text[start : end + 1] for start, end in places})
    for query in pick(example, "qas", list):
        place = (pick(example, "idx", int), pick(query, "idx", int))
        given = pick(query, "answers", list) if "answers" in query else []
        answers = sorted({pick(answer, "text", str) for answer in given})
        yield from _query_rows(text, pick(query, "query", str), entities, answers, place)


def _query_rows(
    passage: str, query: str, entities: list[str], answers: list[str], place: tuple[int, int]
) -> Iterator[Row]:
    text = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", passage).replace("\n@highlight\n", ". ")
    inputs = f"query: {query} entities: {', '.join(entities)} passage: {text}"
    ids = {"idx/passage": place[0], "idx/query": place[1]}
    for answer in answers or [UNLABELLED]:
        yield {"inputs": inputs, "targets": answer, "answers": answers or [UNLABELLED], **ids}


register_rows("super_glue_record", RECORD, queries, [record], "record", record_answer)
