"""Blocks and heads of trees of many shapes, and the roles guessed in trees of one's own."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from layerlens.errors import UnsupportedModelError
from layerlens.models.roles import describe_layers
from layerlens.words import Role
from tests.tiny_models import FAMILIES


def test_a_question_answerer_has_no_pooler() -> None:
    config_class, _, settings = FAMILIES["bert"]
    model = transformers.BertForQuestionAnswering(getattr(transformers, config_class)(**settings))
    assert describe_layers(model).head == ["qa_outputs"]


def test_a_model_without_a_task_has_its_pooler_alone_for_a_head() -> None:
    config_class, model_class, settings = FAMILIES["bert"]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**settings))
    layout = describe_layers(model)
    assert layout.head == ["pooler"]
    assert len(layout.layers) == 12
    assert layout.layers[0].layer == "encoder.layer.0.attention.self.query"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.proj = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer = Attention()
        self.mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        self.w1, self.w3, self.w2 = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.odd = nn.Linear(8, 8)


class Tree(nn.Module):
    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(num_blocks))
        self.classifier = nn.Linear(8, 2)


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_a_tree_of_ones_own_is_guessed_from_its_names_and_shapes(num_blocks: int) -> None:
    layout = describe_layers(Tree(num_blocks))
    assert layout.is_guessed
    assert layout.head == ["classifier"]
    assert {layer.layer.removeprefix("blocks.0."): layer.role for layer in layout.layers if layer.block == 0} == {
        "mixer.query": Role.ATTENTION_QUERY,
        "mixer.key": Role.ATTENTION_KEY,
        "mixer.value": Role.ATTENTION_VALUE,
        "mixer.proj": Role.ATTENTION_OUTPUT,
        "mlp.0": Role.MLP_UP,
        "mlp.2": Role.MLP_DOWN,
        "w1": Role.MLP_GATE,
        "w3": Role.MLP_UP,
        "w2": Role.MLP_DOWN,
        "odd": Role.OTHER,
    }
    assert [block.path for block in layout.blocks] == [f"blocks.{index}" for index in range(num_blocks)]
    assert {(block.attention, block.hidden_size, block.kv_features) for block in layout.blocks} == {
        (f"blocks.{index}.mixer", 8, 4) for index in range(num_blocks)
    }


def test_blocks_are_found_before_the_longer_list_of_experts_inside_them() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(8, 5)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)) for _ in range(5))

    model = nn.Module()
    model.layers = nn.ModuleList([Routed(), Routed()])
    layout = describe_layers(model)
    assert [block.path for block in layout.blocks] == ["layers.0", "layers.1"]
    assert len(layout.layers) == 2 * 11
    router = next(layer for layer in layout.layers if layer.layer == "layers.0.gate")
    assert router.role is Role.OTHER


def test_a_hybrid_of_two_kinds_of_block_is_one_list_of_blocks() -> None:
    class Other(Block):
        pass

    model = nn.Module()
    model.layers = nn.ModuleList([Block(), Other()])
    assert [block.path for block in describe_layers(model).blocks] == ["layers.0", "layers.1"]


class Scanned(Block):
    """Has a table, a state matrix and torch's own attention beside its layers."""

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(31, 2))
        self.states = nn.Parameter(torch.zeros(num_states, 8))
        self.across = nn.MultiheadAttention(8, 2)
        self.positions = nn.Embedding(64, 8)


def test_small_tables_in_a_block_are_no_experts_and_a_matrix_as_large_as_its_layers_is() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([Scanned(5), Scanned(5)])
    assert len(describe_layers(model).layers) == 2 * 10
    model.layers = nn.ModuleList([Scanned(64), Scanned(64)])
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.states, layers\.1\.states; LayerLens plans dense"):
        describe_layers(model)


def test_a_tree_without_blocks_has_its_layers_outside_all_blocks() -> None:
    layout = describe_layers(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert [(layer.layer, layer.block) for layer in layout.layers] == [("0", None), ("2", None)]
    assert layout.blocks == []
    assert layout.is_guessed


def test_a_model_without_linear_layers_is_an_error() -> None:
    with pytest.raises(UnsupportedModelError, match="no layer that can be planned"):
        describe_layers(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))


def test_a_model_that_is_all_head_is_an_error() -> None:
    model = nn.Module()
    model.classifier = nn.Linear(4, 2)
    with pytest.raises(UnsupportedModelError, match="no layer that can be planned"):
        describe_layers(model)
