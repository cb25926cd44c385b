"""Scores of fixed predictions against independent oracles, to 1e-9.

The predictions are fixed: drawn once from a seed. Oracles are scikit-learn, SciPy, seqeval and
rouge-score called directly, and each benchmark's scoring rule written out for a few examples where
the answer can be seen.
"""

import random
import re
from collections import Counter

import py3langid.langid as langid
import pytest
from rouge_score import rouge_scorer
from scipy import stats
from seqeval import metrics as seqeval
from sklearn import metrics as sk

from prompt_jax.metrics import generation as metrics_generation
from prompt_jax.metrics import glue as metrics_glue
from prompt_jax.metrics import qa as metrics_qa
from prompt_jax.metrics import tags as metrics_tags
from prompt_jax.metrics import text as metrics_text
from prompt_jax.metrics.aggregate import aggregates

EXACT = {"abs": 1e-9, "rel": 0}
NLI = ("entailment", "contradiction", "neutral")


def drawn(seed: int, words, n: int = 200, right: float = 0.6) -> tuple[list[str], list[str]]:
    """Fixed targets and predictions of single words."""
    rng = random.Random(seed)
    wanted = [rng.choice(words) for _ in range(n)]
    return wanted, [w if rng.random() < right else rng.choice(words) for w in wanted]


@pytest.mark.parametrize("seed", range(3))
def test_classification(seed):
    wanted, said = drawn(seed, NLI)
    accuracy = 100 * sk.accuracy_score(wanted, said)
    assert metrics_text.accuracy(wanted, said)["accuracy"] == pytest.approx(accuracy, **EXACT)
    macro = 100 * sk.f1_score(wanted, said, labels=NLI, average="macro")
    told = metrics_text.mean_class_f1(NLI)(wanted, said)["mean_3class_f1"]
    assert told == pytest.approx(macro, **EXACT)
    matthews = 100 * sk.matthews_corrcoef(wanted, said)
    told = metrics_glue.matthews_corrcoef(NLI)(wanted, said)["matthews_corrcoef"]
    assert told == pytest.approx(matthews, **EXACT)
    wanted, said = drawn(seed, ("yes", "no"))
    f1 = 100 * sk.f1_score(wanted, said, pos_label="yes")
    assert metrics_glue.f1_of("yes", "no")(wanted, said)["f1"] == pytest.approx(f1, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_correlations(seed):
    scores = [f"{number / 5:.1f}" for number in range(26)]
    wanted, said = drawn(seed, scores)
    numbers = [[float(text) for text in texts] for texts in (wanted, said)]
    pearson, spearman = stats.pearsonr(*numbers), stats.spearmanr(*numbers)
    told = metrics_glue.pearson_corrcoef(wanted, said)["pearson_corrcoef"]
    assert told == pytest.approx(100 * pearson.statistic, **EXACT)  # type: ignore
    told = metrics_glue.spearman_corrcoef(wanted, said)["spearman_corrcoef"]
    assert told == pytest.approx(100 * spearman.statistic, **EXACT)  # type: ignore


@pytest.mark.parametrize("seed", range(3))
def test_multirc_f1a_and_exact_match(seed):
    """F1 over all answers (Khashabi et al. 2018), and questions whose answers are all right."""
    wanted, said = drawn(seed, ("True", "False"), right=0.9)
    questions = [number // 4 for number in range(len(wanted))]
    targets = [
        metrics_glue.multirc_answer(text, {"idx/question": q}, is_target=True)
        for text, q in zip(wanted, questions, strict=True)
    ]
    answers = [metrics_glue.multirc_answer(text) for text in said]
    f1 = 100 * sk.f1_score(wanted, said, pos_label="True")
    assert metrics_glue.multirc_f1(targets, answers)["f1"] == pytest.approx(f1, **EXACT)
    right = [wanted[i : i + 4] == said[i : i + 4] for i in range(0, len(wanted), 4)]
    told = metrics_glue.multirc_exact_match(targets, answers)["exact_match"]
    assert told == pytest.approx(100 * sum(right) / len(right), **EXACT)
    assert 0 < told < 100


@pytest.mark.filterwarnings("ignore::DeprecationWarning:seqeval")
@pytest.mark.parametrize("seed", range(3))
def test_spans_and_parts_of_speech(seed):
    tags = ("O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
    wanted, said = ([*chunks(side, 8)] for side in drawn(seed, tags))
    told = metrics_tags.span_f1(wanted, said)
    oracles = (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)
    expected = [100 * oracle(wanted, said) for oracle in oracles]
    assert list(told.values()) == pytest.approx(expected, **EXACT)
    accuracy = 100 * seqeval.accuracy_score(wanted, said)
    told = metrics_tags.tag_accuracy(wanted, said)["tag_accuracy"]
    assert told == pytest.approx(accuracy, **EXACT)


def chunks(values: list[str], size: int):
    return (values[i : i + size] for i in range(0, len(values), size))


WORDS = ("the", "a", "Café", "café!", "U.S.", "an", "theory", "x-ray", "two", "Two,", "words")


def bag(text: str) -> list[str]:
    """SQuAD's words of an answer (Rajpurkar et al. 2016): lower case, no ASCII punctuation, no
    articles."""
    lowered = "".join(c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return re.sub(r"\b(a|an|the)\b", " ", lowered).split()


def shared_f1(answer: str, said: str) -> float:
    common = sum((Counter(bag(answer)) & Counter(bag(said))).values())
    if not common:
        return 0.0
    precision, recall = common / len(bag(said)), common / len(bag(answer))
    return 2 * precision * recall / (precision + recall)


def phrases(seed: int, n: int = 60) -> tuple[list[list[str]], list[str]]:
    rng = random.Random(seed)

    def phrase() -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))

    wanted = [[phrase() for _ in range(rng.randint(1, 3))] for _ in range(n)]
    return wanted, [rng.choice(w) if rng.random() < 0.3 else phrase() for w in wanted]


@pytest.mark.parametrize("seed", range(3))
def test_questions(seed):
    wanted, said = phrases(seed)
    pairs = list(zip(wanted, said, strict=True))
    em = [max(bag(answer) == bag(text) for answer in answers) for answers, text in pairs]
    f1 = [max(shared_f1(answer, text) for answer in answers) for answers, text in pairs]
    told = metrics_qa.squad(wanted, said)
    assert told["em"] == pytest.approx(100 * sum(em) / len(em), **EXACT)
    assert told["f1"] == pytest.approx(100 * sum(f1) / len(f1), **EXACT)
    # ReCoRD: the same rules, each query once.
    rows = [{"answers": a, "idx/query": q} for q, a in enumerate(wanted) for _ in a]
    targets = [metrics_qa.record_answer("", row, is_target=True) for row in rows]
    texts = [text for answers, text in pairs for _ in answers]
    answers = [metrics_qa.record_answer(t, row) for t, row in zip(texts, rows, strict=True)]
    record = metrics_qa.record(targets, answers)
    assert record["em"] == pytest.approx(told["em"], **EXACT)
    assert record["f1"] == pytest.approx(told["f1"], **EXACT)


def test_wsc_counts_a_referent_that_is_named():
    """T5's rule: all words of one stand in the other, determiners aside (Raffel et al. 2020)."""
    rows = [("the bunny", "Fuzzy bunny", 1), ("Bob", "Jim", 1), ("Jim", "Jim", 0), ("Bo", "Jim", 0)]
    examples = [{"targets": referent, "label": label} for _, referent, label in rows]
    score = metrics_qa.wsc_match("targets")
    said = [score(text, example=e) for (text, _, _), e in zip(rows, examples, strict=True)]
    wanted = [score(e["targets"], example=e, is_target=True) for e in examples]
    expected = 100 * sk.accuracy_score([1, 1, 0, 0], [1, 0, 1, 0])
    assert metrics_text.accuracy(wanted, said)["accuracy"] == pytest.approx(expected, **EXACT)


def test_pieces_are_the_words_of_sp_rouge():
    """rouge-score over pieces that stand between blanks, as the authors of SP-ROUGE count."""
    text = ["abcd bcd", "xyzx yy"], ["abd bcd", "xz yyy"]
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Letters())
    expected = [scorer.score(t, p)["rougeL"].fmeasure for t, p in zip(*text, strict=True)]
    told = metrics_generation.sp_rouge(list)(*text)["sp_rougeL"]
    assert told == pytest.approx(100 * sum(expected) / 2, **EXACT)


class Letters:
    def tokenize(self, text: str) -> list[str]:
        return list(text)


@pytest.mark.slow
def test_languages_of_outputs():
    said = ["Das ist ein kleines Haus am See.", "This is a small house.", "Il fait beau ici."] * 3
    share = 100 * sum(langid.classify(text)[0] == "de" for text in said) / len(said)
    told = metrics_generation.language_id("de")([""] * 9, said)["language/de"]
    assert told == pytest.approx(share, **EXACT)
    assert 0 < told < 100


def test_rows_above_tasks():
    """SuperGLUE: a task with two metrics counts as their mean, then all eight tasks count alike
    (Wang et al. 2019, section 3.4)."""
    single = {"boolq": 71.0, "copa": 62.0, "rte": 66.6, "wic": 70.3, "wsc": 64.4}
    scores = {f"super_glue_{name}": {"accuracy": value} for name, value in single.items()}
    scores["super_glue_cb"] = {"mean_3class_f1": 86.3, "accuracy": 89.1}
    scores["super_glue_multirc"] = {"f1": 68.0, "exact_match": 22.2}
    scores["super_glue_record"] = {"f1": 71.4, "em": 70.5}
    total = 71.0 + 62.0 + 66.6 + 70.3 + 64.4
    expected = (total + (86.3 + 89.1) / 2 + (68.0 + 22.2) / 2 + (71.4 + 70.5) / 2) / 8
    assert aggregates(scores)["super_glue"] == pytest.approx(expected, **EXACT)
