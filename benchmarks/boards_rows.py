"""What the boards hold: rows (a method each, beside its control) and columns (a task each)."""

from dataclasses import dataclass
from typing import Literal

RATES = (0.001, 0.005, 0.02, 0.1, 0.5)  # of every row that has a rate
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """A way to answer a task.

    Attributes:
      recipe: what comes after `board.gin`; of `staged`, all of it; of `untrained`, the method.
      bindings: what it changes there; of `untrained`, more words of the command.
      control: the row that differs in the one thing claimed.
      claim: that one thing.
      kind: `trained` rows are swept by a farm, `alone` the same a run at a time, `staged` is a
        recipe of stages at the rate that the sweep gave the row `rate_of`.
      random: on random weights.
      columns: the only ones it is run in; (): all.
    """

    name: str
    title: str
    recipe: str = ""
    bindings: tuple[str, ...] = ()
    control: str | None = None
    claim: str = ""
    kind: Literal[
        "trained", "alone", "staged", "untrained", "bare", "words", "centroid", "majority"
    ] = "trained"
    rate_of: str | None = None
    random: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A task; no two of its splits share a row.

    Attributes:
      splits: trained on, chosen on, scored on once.
      bindings: of every row.
    """

    name: str
    title: str
    task: str
    splits: tuple[str, str, str]
    bindings: tuple[str, ...] = ()


FEW = ("Data.examples_per_class=16", "TRAIN_STEPS=300", "EVAL_PERIOD=50")
COLUMNS = (
    Column(
        "trec",
        "kinds of questions, 5,152 to train on",
        "trec",
        ("train[:-300]", "train[-300:]", "test"),
    ),
    Column(
        "trec_16",
        "the same, 16 of each kind to train on",
        "trec",
        ("train[:-300]", "train[-300:]", "test"),
        FEW,
    ),
    Column(
        "sst2",
        "verdicts of films, 20,000 to train on",
        "glue_sst2",
        ("train[:-300]", "train[-300:]", "validation"),
        ("Data.sampled_examples=20000",),
    ),
)

LESTER = "methods/lester.gin"
DECODER = "SoftPrompt.decoder_length=10"
BOTH = "DeepPrompt.sides=('encoder','decoder')"
SMALL = "PrefixTuning.hidden=128"
ASKED = ("what is it? {inputs}", "{inputs} this is about", "kind of question: {inputs}")


def _row(name: str, title: str, *bindings: str, rows: int = 20, **more) -> Row:
    """A row of a method's own recipe; `rows`: of its prompt, 0: it has none."""
    length = (f"PROMPT_LENGTH={rows}",) if rows else ()
    recipe = more.pop("recipe", f"methods/{name}.gin")
    return Row(name, title, recipe, (*length, *bindings), **more)


def _templates(*more: str) -> tuple[str, ...]:
    return (*(f"--template={text}" for text in ASKED), *more)


ROWS = (
    Row("majority", "the commonest training answer", kind="majority"),
    Row("words", "TF-IDF and logistic regression", kind="words"),
    Row("centroid", "TF-IDF and the nearest centroid", kind="centroid"),
    Row("bare", "nano alone", kind="bare"),
    Row("gda", "GDA on nano's states", "gda", control="bare", claim="a head", kind="untrained"),
    Row("tfup", "TFUP's cache", "tfup", control="bare", claim="a cache", kind="untrained"),
    Row(
        "zpe",
        "ZPE of three templates",
        "zpe",
        _templates(),
        control="zpe_best",
        claim="weights for templates in place of the best one",
        kind="untrained",
        columns=("trec",),
    ),
    Row(
        "zpe_best",
        "the surest of the three templates",
        "zpe",
        _templates("--best"),
        kind="untrained",
        columns=("trec",),
    ),
    _row(
        "prompt",
        "prompt (Lester et al. 2021), 20 rows",
        recipe=LESTER,
        control="prompt_random",
        claim="what nano has learned",
    ),
    _row("prompt_random", "the same on random weights", recipe=LESTER, random=True),
    _row(
        "prompt_decoder",
        "prompt, and 10 rows of the decoder",
        DECODER,
        recipe=LESTER,
        control="prompt",
        claim="decoder rows",
    ),
    _row("deep", "rows in every encoder layer", control="prompt", claim="a prompt in each layer"),
    _row("deep_both", "rows in every layer of both stacks", BOTH, recipe="methods/deep.gin"),
    _row("prefix", "prefix tuning (Li & Liang 2021)", SMALL, rows=10),
    _row("p_tuning_v2", "P-tuning v2 (Liu et al. 2022)"),
    _row("ofa_pt", "OFA-PT (Yang et al. 2022)", "PrefixTuning.hidden=256", rows=10),
    _row("p_tuning", "P-tuning, an LSTM (Liu et al. 2021)"),
    _row("ia3", "(IA)3 (Liu et al. 2022)", rows=0),
    _row("lora", "LoRA (Hu et al. 2021)", rows=0),
    _row("full", "full fine-tuning", kind="alone", rows=0),
    _row("low_rank", "DPT, rank 10", control="prompt", claim="rank 10 of 20"),
    _row("lopt", "LoPT, rank 5", control="prompt", claim="rank 5 of 20"),
    _row(
        "dept",
        "DePT, 12 rows and rank 5",
        "DePT.rank=5",
        rows=12,
        control="prompt",
        claim="an offset of the text for eight rows",
    ),
    _row(
        "ept",
        "EPT, 12 rows and rank 5",
        "EPT.rank=5",
        rows=12,
        control="dept",
        claim="fusing and mixing",
    ),
    _row("scaled", "scaled prompt", control="prompt", claim="a scale"),
    _row(
        "pre",
        "PRE, an LSTM's residual",
        control="prompt",
        claim="what an LSTM adds",
    ),
    _row("upt", "UPT", control="prompt_decoder", claim="one seed for both stacks"),
    _row("maple", "MaPLe", control="deep_both", claim="coupled stacks"),
    _row("e2vpt", "E2VPT before pruning", control="deep", claim="keys that are values too"),
    Row(
        "xprompt",
        "XPrompt: 12 rows, a quarter of pieces gone",
        "runs/xprompt_nano.gin",
        control="xprompt_random",
        claim="importance, not chance",
        kind="staged",
        rate_of="prompt",
    ),
    Row(
        "xprompt_random",
        "as much kept at random",
        "runs/xprompt_nano.gin",
        ("PruneRows.by='random'",),
        kind="staged",
        rate_of="prompt",
    ),
    Row(
        "e2vpt_pruned",
        "E2VPT: six rows and three keys, pieces gone",
        "runs/e2vpt_nano.gin",
        control="e2vpt_random",
        claim="importance, not chance",
        kind="staged",
        rate_of="e2vpt",
    ),
    Row(
        "e2vpt_random",
        "as much kept at random",
        "runs/e2vpt_nano.gin",
        ("PruneRows.by='random'",),
        kind="staged",
        rate_of="e2vpt",
    ),
    _row(
        "t_few",
        "T-Few's losses on (IA)3",
        "CHOICE_COLUMNS=40",
        rows=0,
        control="t_few_likelihood",
        claim="unlikelihood and length-normalised losses",
        columns=("trec_16",),
    ),
    _row(
        "t_few_likelihood",
        "the likelihood alone",
        "CHOICE_COLUMNS=40",
        "Unlikelihood.weight=0.0",
        "LengthNormalised.weight=0.0",
        rows=0,
        recipe="methods/t_few.gin",
        columns=("trec_16",),
    ),
)
