"""What may be chosen: groups of matrices that share a format, each with the offers that all its members have.

An offer is one scheme for every member of a group; its size and loss are sums over them. Where a scheme was rounded in several
ways, the way of least predicted loss stands for it; a baseline asks for its own way by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerlens.artifacts.compression import Curves, MatrixCurve, Option, Rounding
from layerlens.artifacts.formats import Scheme
from layerlens.budget.format_policy import Allowed, allowed_options
from layerlens.config import CompressConfig
from layerlens.errors import ConfigError
from layerlens.words import fused_set


@dataclass(frozen=True)
class Offer:
    """One scheme for a group.

    Args:
        scheme: How every member is stored.
        options: The option of each member, in the group's order.
        size_bytes: Bytes of all members.
        loss: Nats that all members are predicted to cost; a candidate may put its own figure here.
    """

    scheme: Scheme
    options: tuple[Option, ...]
    size_bytes: int
    loss: float

    @classmethod
    def of(cls, scheme: Scheme, options: Sequence[Option]) -> Offer:
        loss = math.fsum(option.predicted_loss for option in options)
        return cls(scheme, tuple(options), sum(option.size_bytes for option in options), loss)


#: One offer per group.
Selection = tuple[Offer, ...]

#: Policies that take options of measured curves away, beside names to keep.
_NARROWING = ("formats", "widths", "rank_floor", "first_block_rank", "last_block_rank", "role_ranks")


@dataclass(frozen=True)
class MatrixGroup:
    """Matrices that share a scheme.

    Args:
        members: Their places in the curves.
        offers: The best rounding of every common scheme, cheapest first, then by loss.
        roundings: Of each common scheme, the option of each member by rounding.
    """

    members: tuple[int, ...]
    offers: tuple[Offer, ...]
    roundings: dict[Scheme, tuple[dict[Rounding, Option], ...]]

    def rounded(self, scheme: Scheme, wanted: Rounding) -> Offer:
        """The offer of a scheme with the rounding asked for; a member that was not rounded so takes its best one."""
        members = self.roundings[scheme]
        return Offer.of(scheme, [ways.get(wanted) or _best(ways) for ways in members])

    def is_rounded(self, scheme: Scheme, wanted: Rounding) -> bool:
        """Whether every member has the rounding."""
        return all(wanted in ways for ways in self.roundings[scheme])


@dataclass(frozen=True)
class Menu:
    """All groups of a model under one config."""

    curves: Curves
    config: CompressConfig
    allowed: list[Allowed]
    groups: list[MatrixGroup]

    @property
    def other_bytes(self) -> int:
        return self.curves.model.other_bytes

    @property
    def smallest_bytes(self) -> int:
        """The size that no plan goes below."""
        return self.other_bytes + sum(group.offers[0].size_bytes for group in self.groups)

    def size_of(self, selection: Selection) -> int:
        """Bytes of the whole folder's tensors."""
        return self.other_bytes + sum(offer.size_bytes for offer in selection)

    def loss_of(self, selection: Selection) -> float:
        """Nats that all matrices are predicted to cost."""
        return math.fsum(option.predicted_loss for offer in selection for option in offer.options)

    def bits_per_weight(self, size_bytes: int) -> float:
        return 8 * size_bytes / self.curves.model.num_parameters

    def options_of(self, selection: Selection) -> list[Option]:
        """The option of every matrix, in the order of the curves."""
        found = {
            place: option
            for group, offer in zip(self.groups, selection, strict=True)
            for place, option in zip(group.members, offer.options, strict=True)
        }
        return [found[place] for place in range(len(self.curves.matrices))]

    def matrices_of(self, group: MatrixGroup) -> list[MatrixCurve]:
        return [self.curves.matrices[place] for place in group.members]


def menu_of(curves: Curves, config: CompressConfig) -> Menu:
    """Apply the policies and form the groups.

    Raises:
        ConfigError: a policy does not suit the model, or sets members of a group apart.
        ManifestError: a matrix that must be kept has no such option.
    """
    allowed = allowed_options(curves, config)
    together: dict[tuple, list[int]] = {}
    for place, matrix in enumerate(curves.matrices):
        together.setdefault(_group_key(place, matrix, config), []).append(place)
    groups, faults = [], []
    for members in together.values():
        group = _group(tuple(members), allowed)
        if group.offers:
            groups.append(group)
        else:
            names = ", ".join(curves.matrices[place].layer for place in members)
            faults.append(f"group_by {config.group_by}: {names} have no format in common; give them the same policies")
    if faults:
        raise ConfigError.of(faults)
    return Menu(curves, config, allowed, groups)


def without_policies(menu: Menu) -> Menu:
    """The same groups with all that the curves hold, but for what is kept by name; the menu itself where that is no more."""
    defaults = {name: CompressConfig.model_fields[name].get_default(call_default_factory=True) for name in _NARROWING}
    config = menu.config.model_copy(update=defaults)
    return menu if config == menu.config else menu_of(menu.curves, config)


def _group_key(place: int, matrix: MatrixCurve, config: CompressConfig) -> tuple:
    if matrix.block is not None and config.group_by == "block":
        return ("block", matrix.block)
    fused = fused_set(matrix.role)
    if matrix.block is not None and config.group_by == "fused" and fused is not None:
        return ("fused", fused, matrix.block, matrix.input_group)
    return ("alone", place)


def _group(members: tuple[int, ...], allowed: Sequence[Allowed]) -> MatrixGroup:
    tables: list[dict[Scheme, dict[Rounding, Option]]] = []
    for place in members:
        table: dict[Scheme, dict[Rounding, Option]] = {}
        for option in allowed[place].options:
            table.setdefault(option.scheme, {}).setdefault(option.rounding, option)
        tables.append(table)
    common = {
        scheme: tuple(table[scheme] for table in tables) for scheme in tables[0] if all(scheme in table for table in tables[1:])
    }
    offers = [Offer.of(scheme, [_best(ways) for ways in roundings]) for scheme, roundings in common.items()]
    offers.sort(key=lambda offer: (offer.size_bytes, offer.loss))
    return MatrixGroup(members, tuple(offers), common)


def _best(ways: dict[Rounding, Option]) -> Option:
    return min(ways.values(), key=lambda option: option.predicted_loss)
