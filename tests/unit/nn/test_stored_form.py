"""The tensors of a stored matrix take exactly the bytes that the planner counts with."""

from __future__ import annotations

from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st

from layerlens.artifacts.formats import HALF, KEEP, WIDTHS, Scheme, integer, integer_low_rank, low_rank, size_bytes
from layerlens.nn.stored_form import coded_shapes, is_plain, stored_tensors

_GROUPS = st.sampled_from([8, 32, 64, 72, 128])
_SCHEMES = st.one_of(
    st.builds(integer, st.sampled_from(WIDTHS), _GROUPS),
    st.builds(low_rank, st.integers(1, 40), st.sampled_from([16, 8, 4]), _GROUPS),
    st.builds(integer_low_rank, st.sampled_from(WIDTHS), st.integers(1, 40), st.sampled_from([16, 8, 4]), _GROUPS),
)


@settings(deadline=None, max_examples=200)
@given(scheme=_SCHEMES, out_features=st.integers(1, 300), in_features=st.integers(1, 300))
def test_the_tensors_add_up_to_the_planned_bytes(scheme: Scheme, out_features: int, in_features: int) -> None:
    tensors = stored_tensors(scheme, out_features, in_features)
    assert sum(prod(shape) * dtype.itemsize for shape, dtype in tensors.values()) == size_bytes(
        scheme, out_features, in_features, 4
    )
    assert {name for name in tensors if name in ("codes", "up", "down")} >= coded_shapes(scheme, out_features, in_features).keys()


def test_plain_formats_are_an_ordinary_weight_and_no_stored_tensors() -> None:
    for scheme in (KEEP, HALF):
        assert is_plain(scheme)
        assert stored_tensors(scheme, 4, 4) == {}
    assert not is_plain(integer(4))
