"""GLUE (Wang et al. 2018) in T5's text-to-text form: SST-2.

`glue_sst2` begins with T5's task name ("sst2 sentence: ..."), `taskless_glue_sst2` does not.
"""

from prompt_jax.metrics_text import accuracy
from prompt_jax.tasks.official import Benchmark, register

SST2 = Benchmark(
    prefix="sst2",
    fields=("sentence",),
    labels=("0", "1"),
    choices=("negative", "positive"),
    folder="glue/SST-2",
    files={"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"},
    tfds="glue/sst2:2.0.0",
    home="https://gluebenchmark.com/tasks",
)

register("glue_sst2", SST2, [accuracy])
