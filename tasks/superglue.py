"""SuperGLUE (Wang et al. 2019) in T5's text-to-text form: CB, COPA, RTE, WiC, BoolQ.

`super_glue_cb` begins with T5's task name ("cb hypothesis: ... premise: ..."), and
`taskless_super_glue_cb`, for prompts that stand in its place, does not. Fields are in alphabetical
order, but for WiC's, whose word comes last and whose positions T5 leaves out.
"""

from prompt_jax.metrics_text import accuracy, mean_class_f1
from prompt_jax.tasks.official import Benchmark, register

FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
HOME = "https://super.gluebenchmark.com/tasks"
FALSE_TRUE = ("False", "True")


def _benchmark(
    folder: str,
    fields: tuple[str, ...],
    labels: tuple[str | bool | int, ...],
    choices: tuple[str, ...],
) -> Benchmark:
    name = folder.lower()
    return Benchmark(
        prefix=name,
        fields=fields,
        labels=labels,
        choices=choices,
        folder=f"superglue/{folder}",
        files=FILES,
        tfds=f"super_glue/{name}:1.0.2",
        home=HOME,
    )


CB_LABELS = ("entailment", "contradiction", "neutral")
RTE_LABELS = ("entailment", "not_entailment")
CB = _benchmark("CB", ("hypothesis", "premise"), CB_LABELS, CB_LABELS)
COPA = _benchmark(
    "COPA", ("choice1", "choice2", "premise", "question"), (0, 1), ("choice1", "choice2")
)
RTE = _benchmark("RTE", ("hypothesis", "premise"), RTE_LABELS, RTE_LABELS)
WIC = _benchmark("WiC", ("sentence1", "sentence2", "word"), (False, True), FALSE_TRUE)
BOOLQ = _benchmark("BoolQ", ("passage", "question"), (False, True), FALSE_TRUE)

register("super_glue_cb", CB, [mean_class_f1(CB_LABELS), accuracy])
register("super_glue_copa", COPA, [accuracy])
register("super_glue_rte", RTE, [accuracy])
register("super_glue_wic", WIC, [accuracy])
register("super_glue_boolq", BOOLQ, [accuracy])
