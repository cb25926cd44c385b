"""What the scoreboard holds: its rows (a recipe each) and its columns (a task each)."""

from dataclasses import dataclass
from typing import Literal

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """A way to answer a task. `recipe` also says how it is scored; `trained` rows have seeds.

    `bindings`: what it changes in its recipe. `columns`: the only ones it is run in; (): all.
    """

    name: str
    title: str
    recipe: str
    kind: Literal["majority", "bare", "words", "centroid", "trained"] = "trained"
    random: bool = False  # on random weights of the column's backbone
    quick: bool = True  # of the quick board as well
    bindings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        return SEEDS if self.kind == "trained" else SEEDS[:1]


PROMPT = "runs/scoreboard_lester.gin"


def _beside(name: str, title: str, recipe: str, *bindings: str) -> Row:
    """A row of 200 steps that is compared in one column alone."""
    return Row(name, title, recipe, quick=False, bindings=bindings, columns=("empath",))


def _suffix(length: int, kind: str = "", title: str = "") -> Row:
    """A cross-lingual prompt: so many rows before EOS."""
    name, said = f"suffix_{kind or 'rows'}_{length}", f"a suffix of {length} {title}".strip()
    return Row(
        name,
        f"{said} (Philippy et al. 2024)",
        f"runs/scoreboard_suffix{kind and f'_{kind}'}.gin",
        quick=False,
        bindings=(f"PROMPT_LENGTH={length}",),
        columns=("emoji_other_languages",),
    )


COUNTED = ("sst2", "trec", "ag_news", "empath", "cola", "rte", "wic")  # labels of texts
ROWS = (
    Row("majority", "always the commonest answer", PROMPT, "majority"),
    Row("words", "TF-IDF and logistic regression", PROMPT, "words", columns=COUNTED),
    Row("centroid", "TF-IDF and the nearest centroid", PROMPT, "centroid", columns=COUNTED),
    Row("zero_shot", "the frozen backbone, no prompt", PROMPT, "bare"),
    Row("prompt", "prompt (Lester et al. 2021), and ten decoder rows", PROMPT),
    Row(
        "prompt_encoder",
        "prompt (Lester et al. 2021), encoder rows alone",
        PROMPT,
        quick=False,
        bindings=("SoftPrompt.decoder_length=0",),
        columns=COUNTED,
    ),
    Row("deep", "a prompt in every layer", "runs/scoreboard_deep.gin", quick=False),
    Row("prefix", "prefix tuning (Li & Liang 2021)", "runs/scoreboard_prefix.gin", quick=False),
    Row(
        "p_tuning_v2",
        "P-tuning v2 (Liu et al. 2022)",
        "runs/scoreboard_p_tuning_v2.gin",
        quick=False,
    ),
    Row(
        "p_tuning_v2_short",
        "the same with as many parameters as the prompt",
        "runs/scoreboard_p_tuning_v2_short.gin",
        quick=False,
        columns=("pos", "pos_word", "emoji_other_languages"),
    ),
    Row("ia3", "(IA)3 (Liu et al. 2022)", "runs/scoreboard_ia3.gin", quick=False),
    Row("lora", "LoRA (Hu et al. 2021)", "runs/scoreboard_lora.gin", quick=False),
    Row("full", "full fine-tuning", "runs/scoreboard_full.gin"),
    Row("prompt_random", "the same prompt on random weights", PROMPT, random=True),
    Row(
        "prompt_encoder_random",
        "encoder rows alone, on random weights",
        PROMPT,
        random=True,
        quick=False,
        bindings=("SoftPrompt.decoder_length=0",),
        columns=COUNTED,
    ),
    _beside("prompt_short", "the prompt of 200 steps", PROMPT, "TRAIN_STEPS=200"),
    _beside("p_tuning", "P-tuning, an LSTM (Liu et al. 2021)", "runs/scoreboard_p_tuning.gin"),
    _beside("text", "the prompt, begun at a text", "runs/scoreboard_text.gin"),
    _beside("wayward", "and held to it (Khashabi et al. 2022)", "runs/scoreboard_wayward.gin"),
    _beside("context", "the text in a ball (Blau et al. 2024)", "runs/scoreboard_context.gin"),
    _beside("ofa_pt", "OFA-PT (Yang et al. 2022)", "runs/scoreboard_ofa_pt.gin"),
    _beside("prograd", "ProGrad (Zhu et al. 2023)", "runs/scoreboard_prograd.gin"),
    _suffix(1),
    _suffix(10),
    _suffix(50),
    _suffix(10, "network", "out of a network"),
)


@dataclass(frozen=True)
class Column:
    """A task and how it is scored.

    `splits`: trained on, scored on. `labels`: there are some, and few enough to begin a prompt.
    """

    name: str
    task: str
    metric: str
    splits: tuple[str, str] = ("train", "validation")
    bindings: tuple[str, ...] = ()
    backbone: str = "nano"
    scored: str | None = None  # another task than the one trained on
    classification: bool = True  # in the means below the table
    labels: bool = True
    quick: bool = False


DRAWN = "Data.sampled_examples=20000"
LONG = ("INPUT_LENGTH=128", "BATCH_SIZE=8")
TAGS = ("INPUT_LENGTH=96", "BATCH_SIZE=12", DRAWN)
NO_LABELS = ("SoftPrompt.init=@SampledVocabInit()", "SampledVocabInit.byte_pieces=True")
COLUMNS = (
    Column("sst2", "glue_sst2", "accuracy", bindings=(DRAWN,), quick=True),
    Column("trec", "trec", "accuracy", ("train", "test"), quick=True),
    Column("ag_news", "ag_news", "accuracy", bindings=LONG, quick=True),
    Column("empath", "empath_topic", "accuracy"),
    Column("cola", "glue_cola", "matthews_corrcoef"),
    Column("rte", "glue_rte", "accuracy", bindings=("INPUT_LENGTH=192", "BATCH_SIZE=6")),
    Column("wic", "super_glue_wic", "accuracy"),
    Column(
        "pos",
        "xtreme_udpos_token_en",
        "tag_accuracy",
        bindings=TAGS,
        labels=False,
    ),
    Column(
        "pos_word",
        "xtreme_udpos_word_en",
        "tag_accuracy",
        bindings=(DRAWN,),
        labels=False,
        quick=True,
    ),
    Column(
        "e2e",
        "e2e_nlg",
        "rougeL",
        ("validation", "test"),
        ("INPUT_LENGTH=96", "TARGET_LENGTH=64", "BATCH_SIZE=12", "Evaluation.mode=generate"),
        classification=False,
        labels=False,
    ),
    Column(
        "emoji_other_languages",
        "emoji_topic_en",
        "accuracy",
        backbone="mnano",
        scored="scoreboard_emoji",
        classification=False,
    ),
    Column(
        "pos_other_languages",
        "xtreme_udpos_word_en",
        "tag_accuracy",
        bindings=(DRAWN, "Evaluation.max_examples=250"),
        backbone="mnano",
        scored="scoreboard_pos",
        classification=False,
        labels=False,
    ),
)
# What is scored in several languages: those of mnano that a set has. Name: its tasks.
MIXTURES = {
    "scoreboard_emoji": [
        f"emoji_topic_{ll}" for ll in ("ar", "de", "es", "ja", "ko", "ru", "tr", "zh")
    ],
    "scoreboard_pos": [
        f"xtreme_udpos_word_{ll}"
        for ll in ("ar", "de", "el", "es", "hi", "ja", "ko", "ru", "tr", "vi", "zh")
    ],
}
