"""Family probes: which choices ask for one, and what they do to the options of their family, near and far, own and others'."""

from __future__ import annotations

import math

import pytest

from layerlens.artifacts.compression import Curves, MatrixCurve, Option, Probe, Rounding
from layerlens.artifacts.formats import HALF, KEEP, Format, Scheme, integer, integer_low_rank, low_rank
from layerlens.compressing.anchors import FEW_PER_ROLE, LARGEST_ANCHOR, anchored
from layerlens.compressing.family_anchors import REACH, family_anchored, far_from_probes, few_per_family, unanchored
from layerlens.words import Role
from tests.unit.compressing import small_curves

LOW = {rank: low_rank(rank, 8) for rank in (16, 32, 64, 128)}
#: What a second-order model may say of every option, nats.
LOSSES: dict[Scheme, float] = {
    KEEP: 0.0,
    HALF: 1e-9,
    **{integer(bits): 4.0**-bits for bits in (8, 4, 3, 2)},
    **{scheme: 1.0 / scheme.rank**2 for scheme in LOW.values()},
    integer_low_rank(2, 16, 8): 0.01,
}


def whole(block: int | None, role: Role = Role.MLP_UP, scale: float = 1.0) -> MatrixCurve:
    """A matrix with options of every family."""
    roundings = {Format.LOW_RANK: Rounding.WHITENED, Format.KEEP: Rounding.NONE, Format.HALF: Rounding.NONE}
    options = [
        small_curves.option(scheme, roundings.get(scheme.format, Rounding.SECOND_ORDER), scale * loss)
        for scheme, loss in LOSSES.items()
    ]
    return small_curves.matrix(block, role, options)


def of(matrix: MatrixCurve, scheme: Scheme) -> Option:
    return next(option for option in matrix.options if option.scheme == scheme)


def base(matrices: list[MatrixCurve], ratio: float = 2.0) -> Curves:
    """Every matrix anchored at three bits, where it measured `ratio` times as much as predicted."""
    probes = {
        one.layer: small_curves.probe(loss, ratio * loss) for one in matrices for loss in [unanchored(one, of(one, integer(3)))]
    }
    return anchored(small_curves.curves(matrices), probes)


def seen(matrix: MatrixCurve, scheme: Scheme, measured_over_predicted: float) -> Probe:
    """A probe that measured so many times what the matrix's one anchor had it cost."""
    predicted = unanchored(matrix, of(matrix, scheme))
    rounding = of(matrix, scheme).rounding
    measured = measured_over_predicted * matrix.anchor * predicted
    return Probe(scheme=scheme, rounding=rounding, predicted=predicted, measured=measured)


def ratios(before: MatrixCurve, after: MatrixCurve) -> dict[Scheme, float]:
    """How much more each option is predicted to lose."""
    return {
        old.scheme: new.predicted_loss / old.predicted_loss
        for old, new in zip(before.options, after.options, strict=True)
        if old.predicted_loss > 0
    }


def test_a_probe_multiplies_its_own_family_and_no_other() -> None:
    before = base([whole(0), whole(0, Role.MLP_DOWN)])
    first = before.matrices[0]
    after = family_anchored(before, {first.layer: seen(first, LOW[32], 3.0)})
    found = ratios(first, after.matrices[0])
    for scheme, ratio in found.items():
        assert ratio == pytest.approx(3.0 if scheme.format is Format.LOW_RANK else 1.0)
        assert of(after.matrices[0], scheme).family_anchor == pytest.approx(ratio)
    assert of(after.matrices[0], LOW[32]).predicted_loss == pytest.approx(after.matrices[0].family_probes[0].measured)
    assert after.matrices[1] == before.matrices[1]
    assert first.family_probes == []
    for old, new in zip(first.options, after.matrices[0].options, strict=True):
        assert unanchored(after.matrices[0], new) == pytest.approx(unanchored(first, old))


def test_between_two_probes_anchors_run_straight_in_logarithms_and_level_beyond() -> None:
    before = base([whole(0)])
    once = family_anchored(before, {before.matrices[0].layer: seen(before.matrices[0], LOW[16], 8.0)})
    twice = family_anchored(once, {once.matrices[0].layer: seen(once.matrices[0], LOW[64], 2.0)})
    found = ratios(before.matrices[0], twice.matrices[0])
    # Losses fall by four from rank to rank, so rank 32 lies half way.
    assert [found[LOW[rank]] for rank in (16, 32, 64, 128)] == pytest.approx([8.0, 4.0, 2.0, 2.0])
    assert [each.scheme for each in twice.matrices[0].family_probes] == [LOW[16], LOW[64]]


def test_the_one_anchor_stays_what_it_is_at_its_own_probe() -> None:
    before = base([whole(0)])
    after = family_anchored(before, {before.matrices[0].layer: seen(before.matrices[0], integer(8), 1 / 16)})
    found = ratios(before.matrices[0], after.matrices[0])
    # Four bits are a fifth of the way from three to eight.
    assert [found[integer(bits)] for bits in (2, 3, 4, 8)] == pytest.approx([1.0, 1.0, 16.0**-0.2, 1 / 16])
    assert found[LOW[16]] == 1


def test_a_matrix_without_a_probe_reads_the_same_option_of_its_role_by_depth() -> None:
    ups, downs = [whole(block, scale=1 + block) for block in range(5)], [whole(block, Role.MLP_DOWN) for block in range(5)]
    before = base([whole(None, Role.EMBEDDING), *ups, *downs])
    first, last = before.matrices[1], before.matrices[5]
    after = family_anchored(before, {first.layer: seen(first, LOW[16], 2.0), last.layer: seen(last, LOW[16], 8.0)})
    for block, (old, new) in enumerate(zip(before.matrices[1:6], after.matrices[1:6], strict=True)):
        found = ratios(old, new)
        assert [found[scheme] for scheme in LOW.values()] == pytest.approx([2.0 * 4.0 ** (block / 4)] * 4)
        assert found[integer(4)] == 1
    assert after.matrices[6:] == before.matrices[6:]
    assert after.matrices[0] == before.matrices[0]
    own = after.matrices[3]
    final = family_anchored(after, {own.layer: seen(own, LOW[16], 1.5)})
    assert ratios(before.matrices[3], final.matrices[3])[LOW[64]] == pytest.approx(1.5), "its own probe goes before others'"
    assert ratios(before.matrices[2], final.matrices[2])[LOW[64]] == pytest.approx(math.sqrt(2.0 * 1.5))


def test_probes_that_drowned_or_left_the_quadratic_are_held() -> None:
    before = base([whole(0), whole(0, Role.MLP_DOWN)])
    up, down = before.matrices
    after = family_anchored(before, {up.layer: seen(up, LOW[16], 1e6), down.layer: seen(down, LOW[16], -1.0)})
    assert ratios(up, after.matrices[0])[LOW[16]] == pytest.approx(LARGEST_ANCHOR)
    assert ratios(down, after.matrices[1])[LOW[16]] == pytest.approx(1 / LARGEST_ANCHOR)


def test_choices_far_from_any_probe_of_their_family_are_wanted_until_they_have_one() -> None:
    curves = base([whole(0)])
    (matrix,) = curves.matrices

    def is_wanted(of_matrix: MatrixCurve, scheme: Scheme) -> bool:
        return bool(far_from_probes([(of_matrix, of(of_matrix, scheme))]))

    assert {scheme for scheme in LOSSES if is_wanted(matrix, scheme)} == {
        integer(8), *LOW.values(), integer_low_rank(2, 16, 8)
    }  # fmt: skip
    assert 4.0**5 > REACH[Format.INTEGER] > 4.0
    after = family_anchored(curves, {matrix.layer: seen(matrix, LOW[32], 3.0)}).matrices[0]
    assert [rank for rank, scheme in LOW.items() if is_wanted(after, scheme)] == [128], "four times the loss is near, 16 is far"
    assert is_wanted(after, integer_low_rank(2, 16, 8))


def test_a_choice_that_could_not_matter_is_not_measured() -> None:
    loud, quiet = whole(0), whole(1, scale=1e-4)
    curves = base([loud, quiet])
    wanted = far_from_probes([(one, of(one, LOW[16])) for one in curves.matrices])
    assert [matrix.block for matrix, _ in wanted] == [0]
    alone = far_from_probes([(curves.matrices[1], of(curves.matrices[1], LOW[16]))])
    assert [matrix.block for matrix, _ in alone] == [1]
    assert far_from_probes([(one, of(one, KEEP)) for one in curves.matrices]) == []


def test_few_are_measured_of_each_role_and_family_and_none_once_there_are_enough() -> None:
    blocks = 12
    matrices = [whole(block, role) for block in range(blocks) for role in (Role.MLP_UP, Role.MLP_DOWN)]
    curves = base([whole(None, Role.EMBEDDING), *matrices])
    chosen = [(one, of(one, LOW[16] if one.role is not Role.MLP_DOWN else integer_low_rank(2, 16, 8))) for one in curves.matrices]
    wanted = few_per_family(far_from_probes(chosen), curves)
    assert wanted[0][0].role is Role.EMBEDDING
    for role in (Role.MLP_UP, Role.MLP_DOWN):
        found = [one.block for one, _ in wanted if one.role is role]
        assert len(found) == FEW_PER_ROLE
        assert (found[0], found[-1]) == (0, blocks - 1)
    probes = {one.layer: seen(one, option.scheme, 2.0) for one, option in wanted}
    after = family_anchored(curves, probes)
    again = [(one, of(one, option.scheme)) for one, (_, option) in zip(after.matrices, chosen, strict=True)]
    assert few_per_family(far_from_probes(again), after) == []
    assert all(of(one, option.scheme).family_anchor == pytest.approx(2.0) for one, option in again)
    elsewhere = [(one, of(one, LOW[16])) for one in after.matrices if one.role is Role.MLP_DOWN]
    assert len(few_per_family(far_from_probes(elsewhere), after)) == FEW_PER_ROLE, "another family of the same role"


def test_curves_of_before_are_read_as_having_no_family_probes() -> None:
    curves = base([whole(0)])
    older = curves.model_dump(mode="json", exclude={"rounds": True, "matrices": {"__all__": {"family_probes"}}})
    for matrix in older["matrices"]:
        for option in matrix["options"]:
            del option["family_anchor"]
    assert Curves.model_validate(older) == curves
