"""Which matrix a variant has, given what it and its ancestors say."""

from __future__ import annotations

import torch

from layerlens.compressing.variants import ORIGINAL, Lineage, Variant

ONE, TWO = torch.tensor([[1.0]]), torch.tensor([[2.0]])


def lineage() -> Lineage:
    return Lineage(
        [
            Variant("leaf", {"a": ORIGINAL, "c": TWO}, first_block=1, parent="middle"),
            Variant("middle", {"b": TWO}, first_block=2, parent="root"),
            Variant("root", {"a": ONE, "b": ONE}),
            Variant("lonely", lambda path: TWO if path == "b" else None),
        ],
        num_blocks=4,
    )


def test_the_nearest_ancestor_that_says_anything_decides() -> None:
    found = lineage()
    assert found.block_weights("leaf", 3, "abcd") == {"b": TWO, "c": TWO}
    assert found.weights("leaf", "abcd") == {"b": TWO, "c": TWO}
    assert found.owners("leaf", "abcd") == ("leaf", "middle", "leaf", None)
    assert found.weights("lonely", "ab") == {"b": TWO}


def test_a_variant_says_nothing_of_blocks_below_its_own() -> None:
    found = lineage()
    assert found.block_weights("leaf", 1, "ab") == {"b": ONE}
    assert found.block_weights("leaf", 0, "ab") == {"a": ONE, "b": ONE}
    assert found.block_weights("middle", 1, "ab") == {"a": ONE, "b": ONE}
    assert found.has_own("middle", "b")
    assert not found.has_own("middle", "ac")
    assert found.has_own("leaf", "a")


def test_children_come_before_their_parents() -> None:
    found = lineage()
    assert found.children_first(["root", "lonely", "middle", "leaf"]) == ["leaf", "middle", "root", "lonely"]
    assert found.with_ancestors(["lonely", "middle", "leaf"]) == ["lonely", "middle", "root", "leaf"]
