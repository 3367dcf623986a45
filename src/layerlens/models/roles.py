"""The role of every layer, for every architecture: the one place that decides it.

A known architecture is a row of `ARCHITECTURES`: the paths of a block's layers in forward order, with their roles.
Anything else is guessed from names and shapes in the module tree, and the layout says so (`is_guessed`). Planned are
the linear layers inside the blocks; where a tree has no blocks, all linear layers outside the head. Layers outside
the blocks (embedding projections, a language model's output) stay frozen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from layerlens.artifacts.layers import BlockSpec, LayerSpec, ModelLayout
from layerlens.errors import UnsupportedModelError, few
from layerlens.models.tree import find_blocks, find_head, fused_weights, is_under, planned_modules
from layerlens.models.weights import is_transposed, layer_features
from layerlens.nn.attention_interface import uses_interface
from layerlens.words import Role

Q, K, V, QKV, OUT = Role.ATTENTION_QUERY, Role.ATTENTION_KEY, Role.ATTENTION_VALUE, Role.ATTENTION_QKV, Role.ATTENTION_OUTPUT
UP, GATE, GATE_UP, DOWN, OTHER = Role.MLP_UP, Role.MLP_GATE, Role.MLP_GATE_UP, Role.MLP_DOWN, Role.OTHER

_BERT = {
    "attention.self.query": Q,
    "attention.self.key": K,
    "attention.self.value": V,
    "attention.output.dense": OUT,
    "intermediate.dense": UP,
    "output.dense": DOWN,
}
_DISTILBERT = {
    "attention.q_lin": Q,
    "attention.k_lin": K,
    "attention.v_lin": V,
    "attention.out_lin": OUT,
    "ffn.lin1": UP,
    "ffn.lin2": DOWN,
}
_GPT2 = {"attn.c_attn": QKV, "attn.c_proj": OUT, "mlp.c_fc": UP, "mlp.c_proj": DOWN}
_GPT_NEO = {
    "attn.attention.q_proj": Q,
    "attn.attention.k_proj": K,
    "attn.attention.v_proj": V,
    "attn.attention.out_proj": OUT,
    "mlp.c_fc": UP,
    "mlp.c_proj": DOWN,
}
_LLAMA = {
    "self_attn.q_proj": Q,
    "self_attn.k_proj": K,
    "self_attn.v_proj": V,
    "self_attn.o_proj": OUT,
    "mlp.gate_proj": GATE,
    "mlp.up_proj": UP,
    "mlp.down_proj": DOWN,
}
_VIT = {
    "attention.q_proj": Q,
    "attention.k_proj": K,
    "attention.v_proj": V,
    "attention.o_proj": OUT,
    "mlp.fc1": UP,
    "mlp.fc2": DOWN,
}
#: model_type of the config -> path within the block -> role, in forward order.
ARCHITECTURES: Mapping[str, Mapping[str, Role]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), _BERT),
    "distilbert": _DISTILBERT,
    "gpt2": _GPT2,
    "gpt_neo": _GPT_NEO,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"), _LLAMA),
    **dict.fromkeys(("vit", "deit"), _VIT),
}

#: Names of layers in attention and elsewhere, without the fillers that many carry (`q_proj`, `out_lin`, `query_layer`).
FILLERS = frozenset({"proj", "projection", "linear", "lin", "layer", "dense", "to", "c"})
ATTENTION_NAMES = {
    **dict.fromkeys(("q", "query", "wq", "queries"), Q),
    **dict.fromkeys(("k", "key", "wk", "keys"), K),
    **dict.fromkeys(("v", "value", "wv", "values"), V),
    **dict.fromkeys(("qkv", "wqkv", "query_key_value", "attn", "in"), QKV),
    **dict.fromkeys(("o", "out", "wo", "output", ""), OUT),
}
MLP_NAMES = {
    **dict.fromkeys(
        ("up", "fc", "fc1", "lin1", "linear1", "wi", "wi_1", "w3", "h_4h", "fc_in", "in", "intermediate", "ffn", "ffn1"), UP
    ),
    **dict.fromkeys(("gate", "w1", "wi_0"), GATE),
    **dict.fromkeys(("gate_up", "up_gate"), GATE_UP),
    **dict.fromkeys(
        ("down", "fc2", "lin2", "linear2", "wo", "w2", "4h_h", "fc_out", "out", "output", "ffn_output", "ffn2", ""), DOWN
    ),
}
ATTENTION_PATH = re.compile(r"attn|attention", re.IGNORECASE)
MLP_PATH = re.compile(r"mlp|ffn|feed_?forward|intermediate|densereludense", re.IGNORECASE)
#: Roles that read the same input: the residual stream at the entry of one sublayer.
SHARED_INPUTS = ({Q, K, V}, {UP, GATE})


@dataclass(frozen=True)
class _Layer:
    """A linear layer by its path within its block."""

    path: str
    module: nn.Module
    role: Role

    @property
    def parent(self) -> str:
        return self.path.rpartition(".")[0]


def describe_layers(model: nn.Module) -> ModelLayout:
    """Find a task model's planned layers, its blocks and its head.

    Args:
        model: A task model (`AutoModelFor…`), or any module tree with `Linear` or `Conv1D` layers.

    Returns:
        Layers and blocks in forward order; `is_guessed` where the architecture is unknown.

    Raises:
        UnsupportedModelError: a block holds fused expert weights, or no layer can be planned.
    """
    head = find_head(model)
    blocks = find_blocks(model, head)
    fused = [f"{path}.{name}" for path, block in blocks for name in fused_weights(block)]
    if fused:
        raise UnsupportedModelError(
            f"{type(model).__name__} has fused expert weights that no linear layer computes: {few(fused)}; "
            "LayerLens plans dense models only"
        )
    known = ARCHITECTURES.get(str(getattr(getattr(model, "config", None), "model_type", "")), {})
    specs: list[LayerSpec] = []
    block_specs: list[BlockSpec] = []
    is_guessed = not known
    for index, (path, block) in enumerate(blocks):
        is_known = bool(layers := _known_layers(block, known))
        layers = layers or _guessed_layers(block)
        is_guessed |= not is_known
        specs += [_spec(path, index, layer, _input_group(layer, layers) if is_known else layer.path) for layer in layers]
        block_specs.append(_block_spec(model, path, index, block, layers))
    if not blocks:
        layers = [layer for layer in _guessed_layers(model) if not is_under(layer.path, head)]
        specs, is_guessed = [_spec("", None, layer, layer.path) for layer in layers], True
    if not specs:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no layer that can be planned: none of its modules outside the head is a Linear or Conv1D"
        )
    return ModelLayout(layers=specs, blocks=block_specs, head=head, is_guessed=is_guessed)


def _known_layers(block: nn.Module, known: Mapping[str, Role]) -> list[_Layer]:
    """Return a block's layers by the table, in forward order; nothing where the block has a layer the table lacks."""
    modules = dict(planned_modules(block))
    if not known or set(modules) - set(known):
        return []
    return [_Layer(path, modules[path], role) for path, role in known.items() if path in modules]


def _guessed_layers(root: nn.Module) -> list[_Layer]:
    """Return the layers below `root` in the order of the tree, with roles guessed by name, then by their siblings."""
    layers = [_Layer(path, module, _role_by_name(path)) for path, module in planned_modules(root)]
    entries = {layer.parent for layer in layers if layer.role in (Q, K, V, QKV)}
    return [_Layer(layer.path, layer.module, _role_among(layer, layers, entries)) for layer in layers]


def _role_by_name(path: str) -> Role:
    *parents, leaf = path.split(".")
    name = _bare(leaf)
    if not name and parents and not ATTENTION_PATH.search(parents[-1]):
        # `intermediate.dense`, `output.dense`: the leaf says nothing, its parent does.
        name = _bare(parents[-1])
    if ATTENTION_PATH.search(".".join(parents)):
        return ATTENTION_NAMES.get(name, OTHER)
    if name not in MLP_NAMES and not MLP_PATH.search(".".join(parents)):
        return ATTENTION_NAMES.get(name, OTHER)
    return MLP_NAMES.get(name, OTHER)


def _role_among(layer: _Layer, layers: list[_Layer], entries: set[str]) -> Role:
    """Correct a name's role by the layers that stand beside it."""
    siblings = [other for other in layers if other.parent == layer.parent]
    roles = {other.role for other in siblings}
    before = {other.role for other in siblings[: siblings.index(layer)]}
    out_features, in_features = layer_features(layer.module)
    is_nameless = layer.role is OTHER and not _bare(layer.path.rpartition(".")[2])
    if (layer.role is DOWN or is_nameless) and layer.parent in entries and not before & {UP, GATE, GATE_UP}:
        # `out_proj` or `proj` after q, k and v, in a module whose name does not say attention.
        return OUT
    if layer.role is GATE and UP not in roles:
        # Without its partner a gate is the first of two matrices (`w1`), or a router, which picks among few experts.
        return UP if out_features >= in_features else OTHER
    if layer.role is UP and any(other.role is DOWN and 2 * layer_features(other.module)[1] == out_features for other in siblings):
        return GATE_UP
    if layer.role is OTHER and MLP_PATH.search(layer.parent) and out_features != in_features:
        return UP if out_features > in_features else DOWN
    return layer.role


def _bare(name: str) -> str:
    """Return a module's name in lower case without its fillers: `q_proj` -> `q`, `dense_h_to_4h` -> `h_4h`."""
    return "_".join(part for part in name.lower().split("_") if part not in FILLERS)


def _input_group(layer: _Layer, layers: list[_Layer]) -> str:
    """Return the path of the first layer in the block that reads the same input as `layer`."""
    for roles in SHARED_INPUTS:
        if layer.role in roles:
            return next(other.path for other in layers if other.role in roles and other.parent == layer.parent)
    return layer.path


def _spec(prefix: str, block: int | None, layer: _Layer, input_group: str) -> LayerSpec:
    out_features, in_features = layer_features(layer.module)
    return LayerSpec(
        layer=f"{prefix}.{layer.path}".lstrip("."),
        block=block,
        role=layer.role,
        in_features=in_features,
        out_features=out_features,
        has_bias=getattr(layer.module, "bias", None) is not None,
        is_transposed=is_transposed(layer.module),
        input_group=f"{prefix}.{input_group}".lstrip("."),
    )


def _block_spec(model: nn.Module, path: str, index: int, block: nn.Module, layers: list[_Layer]) -> BlockSpec:
    entry = next((layer for layer in layers if layer.role in (Q, QKV)), None)
    hidden_size = layer_features((entry or layers[0]).module)[1]
    attention = f"{path}.{entry.parent}" if entry is not None and entry.parent else None
    return BlockSpec(
        block=index,
        path=path,
        attention=attention,
        takes_prefix=attention is not None and uses_interface(model.get_submodule(attention)),
        hidden_size=hidden_size,
        kv_features=_kv_features(entry, layers, hidden_size),
        num_params=sum(parameter.numel() for parameter in block.parameters()),
    )


def _kv_features(entry: _Layer | None, layers: list[_Layer], hidden_size: int) -> int:
    """Return key/value heads × head size: what one token's key takes.

    A fused layer gives out queries, keys and values; the queries are as wide as what the output layer reads.
    """
    if entry is None:
        return hidden_size
    beside = {layer.role: layer_features(layer.module) for layer in layers if layer.parent == entry.parent}
    if K in beside:
        return beside[K][0]
    query_features = beside[OUT][1] if OUT in beside else hidden_size
    fused_features = layer_features(entry.module)[0]
    return (fused_features - query_features) // 2 if entry.role is QKV and fused_features > query_features + 1 else hidden_size
