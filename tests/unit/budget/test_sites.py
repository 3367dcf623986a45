from __future__ import annotations

import pytest
from torch import nn

from layerlens.artifacts.profile import LayerProfile
from layerlens.budget.sites import ATTENTION_ROLE, plan_sites, rank_range
from layerlens.config import OptimizationConfig
from layerlens.errors import ConfigError
from layerlens.words import Method, Site
from tests.unit.budget.small_models import SMALL, small

EVERYTHING = OptimizationConfig(max_trainable_params=1, candidate_methods=[*Method])


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_parameters_equal_those_of_real_modules() -> None:
    for site in plan_sites(small().profile, EVERYTHING):
        for size in site.sizes:
            match site.method:
                case Method.LORA:
                    inner = nn.Linear(site.in_features, size, bias=False), nn.Linear(size, site.out_features, bias=False)
                    expected = count(*inner)
                case Method.ADAPTER:
                    expected = count(nn.Linear(site.out_features, size), nn.Linear(size, site.out_features))
                case _:
                    expected = count(nn.Embedding(size, 2 * SMALL.kv))
            assert site.params(size) == expected
        assert site.params(0) == 0


def test_each_method_sits_only_where_it_fits() -> None:
    sites = plan_sites(small().profile, EVERYTHING)
    linear = {layer.layer: layer for layer in small().profile.layers}
    for site in sites:
        if site.method is Method.LORA:
            assert site.site is Site.LINEAR
            assert site.layer in linear
        elif site.method is Method.ADAPTER:
            assert site.site is Site.SUBLAYER
            assert linear[site.layer].role.is_sublayer_output
        else:
            assert site.site is Site.ATTENTION
            assert site.layer not in linear
            assert site.role == ATTENTION_ROLE
            assert {linear[member].block for member in site.members} == {site.block}
    assert sum(site.method is Method.PREFIX for site in sites) == SMALL.blocks
    assert sum(site.method is Method.ADAPTER for site in sites) == 2 * SMALL.blocks


def test_idle_layers_have_no_site_unless_all_are_idle() -> None:
    profile = small().profile

    def idle(layer: LayerProfile) -> LayerProfile:
        return layer.model_copy(update={"metrics": {**layer.metrics, "fisher": 0.0, "gradient_norm_squared": 0.0}})

    gone = {layer.layer for layer in profile.layers if layer.block == 1 and layer.role.is_attention}
    partly = profile.model_copy(update={"layers": [idle(one) if one.layer in gone else one for one in profile.layers]})
    sites = plan_sites(partly, EVERYTHING)
    assert gone
    assert not gone & {member for site in sites for member in site.members}
    assert {site.layer for site in sites if site.site is Site.LINEAR} == {layer.layer for layer in profile.layers} - gone
    wholly = profile.model_copy(update={"layers": [idle(layer) for layer in profile.layers]})
    assert len(plan_sites(wholly, EVERYTHING)) == len(plan_sites(profile, EVERYTHING))


def test_every_layer_is_a_site_even_where_lora_is_no_candidate() -> None:
    config = OptimizationConfig(max_trainable_params=1, candidate_methods=[Method.ADAPTER, Method.NONE])
    sites = plan_sites(small().profile, config)
    linear = [site for site in sites if site.site is Site.LINEAR]
    assert [site.layer for site in linear] == [layer.layer for layer in small().profile.layers]
    assert not any(site.sizes for site in linear)


def test_ranks_reach_a_tenth_of_the_hidden_size_and_never_a_layers_narrow_side() -> None:
    profile = small().profile
    assert rank_range(profile, EVERYTHING) == (1, 2, 3, 4)
    wide = OptimizationConfig(max_trainable_params=1, max_rank=30, min_rank=2)
    for site in plan_sites(profile, wide):
        assert site.sizes == tuple(range(2, min(30, site.in_features, site.out_features) + 1))
    assert rank_range(profile, wide.model_copy(update={"max_rank": 10**12})) == tuple(range(2, SMALL.hidden + 1))


def test_a_smallest_rank_above_the_largest_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--min-rank 9 is above the largest rank 4.*--max-rank"):
        rank_range(small().profile, OptimizationConfig(max_trainable_params=1, min_rank=9))
