"""The names of T5's arrays in every format, and the strict match between a file and a model.

A `{i}` in a rule stands for the number of a layer. T5X keeps kernels as [in, out] and the relative
bias as [heads, buckets]; transformers keeps both the other way round, hence `transpose`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prompt_jax.errors import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """Source name -> T5X name. `copy`: may repeat another source; no target: present but unused."""

    source: str
    target: str | None
    transpose: bool = False
    copy: bool = False


@dataclass(frozen=True)
class Origin:
    """Where an array of the model is found, and sources that must hold the same values."""

    name: str
    transpose: bool
    copies: tuple[str, ...] = ()


Table = tuple[Rule, ...]

# T5X's part of the name, transformers' part, transposed there
_HEADS = ("query", "key", "value", "out")
_ATTENTION = [(f"{name}/kernel", f"{name[0]}.weight", True) for name in _HEADS]
_MLP = [(f"{name}/kernel", f"{name}.weight", True) for name in ("wi", "wi_0", "wi_1", "wo")]
_LAYERS = {  # stack: [(T5X's block, transformers' block, arrays inside)]
    "encoder": [
        ("pre_attention_layer_norm/scale", "layer.0.layer_norm.weight", None),
        ("attention", "layer.0.SelfAttention", _ATTENTION),
        ("pre_mlp_layer_norm/scale", "layer.1.layer_norm.weight", None),
        ("mlp", "layer.1.DenseReluDense", _MLP),
    ],
    "decoder": [
        ("pre_self_attention_layer_norm/scale", "layer.0.layer_norm.weight", None),
        ("self_attention", "layer.0.SelfAttention", _ATTENTION),
        ("pre_cross_attention_layer_norm/scale", "layer.1.layer_norm.weight", None),
        ("encoder_decoder_attention", "layer.1.EncDecAttention", _ATTENTION),
        ("pre_mlp_layer_norm/scale", "layer.2.layer_norm.weight", None),
        ("mlp", "layer.2.DenseReluDense", _MLP),
    ],
}
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


def _layer_rules(stack: str) -> list[Rule]:
    rules = [Rule(f"{stack}.final_layer_norm.weight", f"{stack}/{stack}_norm/scale")]
    for ours, theirs, inside in _LAYERS[stack]:
        source, target = f"{stack}.block.{{i}}.{theirs}", f"{stack}/layers_{{i}}/{ours}"
        if inside is None:
            rules.append(Rule(source, target))
        else:
            rules += [Rule(f"{source}.{b}", f"{target}/{a}", flip) for a, b, flip in inside]
    return rules


def _bias_rules(stack: str, relpos_per_layer: bool) -> list[Rule]:
    if relpos_per_layer:
        target = f"{stack}/layers_{{i}}/relpos_bias/rel_embedding"
        return [Rule(f"{stack}.block.{{i}}.{_BIAS}", target, transpose=True)]
    target = f"{stack}/relpos_bias/rel_embedding"
    return [Rule(f"{stack}.block.0.{_BIAS}", target, transpose=True)]


def hf_table(tied: bool, relpos_per_layer: bool) -> Table:
    """transformers' names: T5 1.0, 1.1, mT5, ByT5; with `relpos_per_layer`, umT5.

    The embedding may be repeated as the encoder's, the decoder's and, where `tied`, the head's.
    The first T5 checkpoints carry one more array, a bias of the cross-attention that no T5 uses.
    """
    embedding = "token_embedder/embedding"
    rules = [Rule("shared.weight", embedding)]
    rules += [Rule(f"{stack}.embed_tokens.weight", embedding, copy=True) for stack in _LAYERS]
    if tied:
        rules.append(Rule("lm_head.weight", embedding, copy=True))
    else:
        rules.append(Rule("lm_head.weight", "decoder/logits_dense/kernel", transpose=True))
    for stack in _LAYERS:
        rules += _layer_rules(stack) + _bias_rules(stack, relpos_per_layer)
    rules.append(Rule(_UNUSED, None))
    return tuple(rules)


def _targets() -> list[str]:
    tables = (hf_table(False, False), hf_table(False, True))
    return list(dict.fromkeys(rule.target for table in tables for rule in table if rule.target))


T5X_TABLE: Table = tuple(Rule(f"target.{name.replace('/', '.')}", name) for name in _targets())
DOTTED_TABLE: Table = tuple(Rule(name.replace("/", "."), name) for name in _targets())
QUANTISED_TABLE: Table = tuple(
    Rule(f"{rule.source}{part.replace('/', '.')}", f"{rule.target}{part}")
    for rule in DOTTED_TABLE
    for part in (("/qvalue", "/scale") if rule.source.endswith(".kernel") else ("",))
)
FILES_TABLE: Table = tuple(Rule(name, name) for name in _targets())


def compiled(pattern: str) -> re.Pattern[str]:
    """What matches the names of a rule, where {i} stands for a layer's number."""
    return re.compile(re.escape(pattern).replace(r"\{i\}", r"(0|[1-9]\d*)"))


def _fill(pattern: str, match: re.Match[str]) -> str:
    return pattern.replace("{i}", match[1]) if "{i}" in pattern else pattern


def destination(target: str, table: Table) -> Origin:
    """Where an array of a T5X name stands in the files that `table` describes."""
    for rule in table:
        if rule.target and not rule.copy and (match := compiled(rule.target).fullmatch(target)):
            return Origin(_fill(rule.source, match), rule.transpose)
    raise KeyError(target)


def source_name(target: str, table: Table) -> str:
    """What a T5X name is called in the files that `table` describes."""
    return destination(target, table).name


def match(
    shapes: Mapping[str, Shape], wanted: Mapping[str, Shape], table: Table, where: str
) -> dict[str, Origin]:
    """T5X name -> origin in the file, for every array of `wanted` (`t5x_shapes`), or UserError.

    Refused, naming the array as the file does: a name that no T5 has (unknown), one that this
    model does not have (unexpected), two sources for one array (twice), an array without a source
    (missing), another shape. `where` names the file in the message.
    """
    sources: dict[str, list[tuple[str, Rule]]] = {}
    patterns = [(compiled(rule.source), rule) for rule in table]
    for name, shape in shapes.items():
        rule, target = _resolve(name, patterns, where)
        if target is None:
            continue
        if target not in wanted:
            raise UserError(where, f"'{name}' is unexpected in this model", "check its config.json")
        _check_shape(name, shape, wanted[target], rule, where)
        sources.setdefault(target, []).append((name, rule))
    missing = [source_name(target, table) for target in wanted if target not in sources]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(where, f"'{missing[0]}' is missing{more}", "copy the checkpoint again")
    return {target: _origin(target, hits, where) for target, hits in sources.items()}


def _resolve(name: str, patterns, where: str) -> tuple[Rule, str | None]:
    for pattern, rule in patterns:
        if hit := pattern.fullmatch(name):
            return rule, None if rule.target is None else _fill(rule.target, hit)
    raise UserError(where, f"'{name}' is unknown, no T5 has it", "give a plain T5 checkpoint")


def _check_shape(name: str, shape: Shape, wanted: Shape, rule: Rule, where: str) -> None:
    expected = wanted[::-1] if rule.transpose else wanted
    if tuple(shape) != tuple(expected):
        raise UserError(
            where,
            f"'{name}' has shape {list(shape)}, the model needs {list(expected)}",
            "check its config.json",
        )


def _origin(target: str, hits: list[tuple[str, Rule]], where: str) -> Origin:
    hits = sorted(hits, key=lambda hit: hit[1].copy)  # stable: the original, if any, comes first
    (name, rule), *others = hits
    for other, other_rule in others:
        if not other_rule.copy:
            raise UserError(where, f"'{name}' and '{other}' give '{target}' twice", "remove one")
    return Origin(name, rule.transpose, tuple(other for other, _ in others))


def check_dtypes(dtypes: Mapping[str, tuple[str, Any]], where: str) -> None:
    """Refuses an array whose dtype is not that of the others: a sign of a bad copy.

    `found`: name in the file -> (T5X's name, dtype). Beside half precision, norms and `wo` may be
    float32, as transformers keeps them.
    """
    count = Counter(str(dtype) for _, dtype in dtypes.values())
    main = max(count, key=lambda dtype: (count[dtype], dtype))
    for name, (target, dtype) in dtypes.items():
        keeps = target.endswith(("/scale", "/wo/kernel")) and str(dtype) == "float32"
        if str(dtype) != main and not keeps:
            raise UserError(
                where, f"'{name}' holds {dtype} and the others {main}", "save all in one precision"
            )
