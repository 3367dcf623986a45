"""Which of its options each matrix may take: what a person said about layers to keep, ranks, widths and families of formats.

To keep a matrix as the checkpoint has it is always allowed. Rank policies (first block, last block, role, in this order) fix the
rank of the low-rank format; integers and their corrections stay on offer beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from layerlens.artifacts.compression import Curves, MatrixCurve, Option
from layerlens.artifacts.formats import RANK_STEP, Format
from layerlens.config import CompressConfig
from layerlens.errors import ConfigError, ManifestError, few
from layerlens.words import Role


@dataclass(frozen=True)
class Allowed:
    """What one matrix may be stored as.

    Args:
        options: Cheapest first, then by predicted loss; never empty.
        kept_by: The pattern that keeps the matrix as it is; none where no pattern does.
        rank: The rank that a policy fixes for the low-rank format; none where it is free.
    """

    options: tuple[Option, ...]
    kept_by: str | None = None
    rank: int | None = None


def allowed_options(curves: Curves, config: CompressConfig) -> list[Allowed]:
    """Filter the options of every matrix by every policy.

    Args:
        curves: The matrices with their options.
        config: The policies.

    Returns:
        One entry per matrix, in their order.

    Raises:
        ConfigError: patterns, roles or blocks that match nothing, a rank above a matrix or not on its curve, a group size
            that was not measured; all of them at once.
        ManifestError: a matrix that must be kept has no such option.
    """
    kept_by = [_keeping_pattern(matrix, config.keep) for matrix in curves.matrices]
    policies = [_rank_policy(matrix, curves, config) for matrix in curves.matrices]
    faults = [*_unmatched(curves, config), *_group_size_faults(curves, config)]
    faults += _rank_faults(curves, [None if kept else policy for kept, policy in zip(kept_by, policies, strict=True)])
    if faults:
        raise ConfigError.of(faults)
    found = []
    for matrix, pattern, policy in zip(curves.matrices, kept_by, policies, strict=True):
        rank = None if policy is None else policy[1]
        options = [option for option in matrix.options if _is_allowed(option, config, rank, is_kept=pattern is not None)]
        if not options:
            raise ManifestError(
                f"{matrix.layer}: its curve offers nothing that the policies allow, not even to keep it; measure again"
            )
        options.sort(key=lambda option: (option.size_bytes, option.predicted_loss))
        found.append(Allowed(tuple(options), pattern, rank))
    return found


def has_role(matrix: MatrixCurve, pattern: str) -> bool:
    """Whether a role, or a pattern of roles, means this matrix. An embedding tied to another module is the head too."""
    roles = {matrix.role, Role.HEAD} if matrix.role is Role.EMBEDDING and matrix.tied else {matrix.role}
    return any(fnmatchcase(role.value, pattern) for role in roles)


def _keeping_pattern(matrix: MatrixCurve, patterns: Sequence[str]) -> str | None:
    names = [matrix.layer, *matrix.tied]
    return next(
        (each for each in patterns if has_role(matrix, each) or any(fnmatchcase(name, each) for name in names)),
        None,
    )


def _rank_policy(matrix: MatrixCurve, curves: Curves, config: CompressConfig) -> tuple[str, int] | None:
    """The name and rank of the policy that holds for a matrix."""
    blocks = [other.block for other in curves.matrices if other.block is not None]
    if config.first_block_rank is not None and blocks and matrix.block == min(blocks):
        return "first_block_rank", config.first_block_rank
    if config.last_block_rank is not None and blocks and matrix.block == max(blocks):
        return "last_block_rank", config.last_block_rank
    return next((("role_ranks", rank) for role, rank in config.role_ranks.items() if has_role(matrix, role)), None)


def _is_allowed(option: Option, config: CompressConfig, rank: int | None, *, is_kept: bool) -> bool:
    scheme = option.scheme
    if scheme.format is Format.KEEP:
        return True
    if is_kept or scheme.format.value not in config.formats:
        return False
    if scheme.format.has_codes and scheme.bits not in config.widths:
        return False
    if scheme.format is Format.LOW_RANK and rank is not None and scheme.rank != rank:
        return False
    return not scheme.format.has_factors or scheme.rank >= config.rank_floor


def _unmatched(curves: Curves, config: CompressConfig) -> list[str]:
    """Patterns and blocks that mean nothing in this model."""
    faults = []
    idle = [each for each in config.keep if not any(_keeping_pattern(matrix, [each]) for matrix in curves.matrices)]
    if idle:
        example = curves.matrices[len(curves.matrices) // 2]
        faults.append(
            f"keep: {', '.join(idle)} match no layer; layers are called like {example.layer}, roles like {example.role}"
        )
    roles = sorted({matrix.role.value for matrix in curves.matrices})
    if idle := [each for each in config.role_ranks if not any(has_role(matrix, each) for matrix in curves.matrices)]:
        faults.append(f"role_ranks: the model has no {', '.join(idle)}; it has {', '.join(roles)}")
    faults += [
        f"role_ranks: {role} stands behind roles that name all its layers, so its rank would do nothing; put it first"
        for place, role in enumerate(config.role_ranks)
        if _is_forestalled(role, list(config.role_ranks)[:place], curves)
    ]
    if all(matrix.block is None for matrix in curves.matrices):
        faults += [
            f"{name}: the model has no blocks" for name in ("first_block_rank", "last_block_rank") if getattr(config, name)
        ]
    if (config.rank or config.first_block_rank or config.last_block_rank or config.role_ranks) and (
        Format.LOW_RANK.value not in config.formats
    ):
        faults.append(f"formats: a rank is asked for, but {Format.LOW_RANK} is not among {', '.join(config.formats)}")
    return faults


def _is_forestalled(role: str, earlier: Sequence[str], curves: Curves) -> bool:
    """Whether earlier roles already say the rank of every matrix of this one."""
    mine = [matrix for matrix in curves.matrices if has_role(matrix, role)]
    return bool(mine) and all(any(has_role(matrix, each) for each in earlier) for matrix in mine)


def _group_size_faults(curves: Curves, config: CompressConfig) -> list[str]:
    measured = {option.scheme.group_size for matrix in curves.matrices for option in matrix.options if _has_groups(option)}
    if not measured or config.group_size in measured:
        return []
    sizes = ", ".join(map(str, sorted(measured)))
    return [f"group_size: the curves were measured with {sizes}, not {config.group_size}; measure again in another folder"]


def _has_groups(option: Option) -> bool:
    return option.scheme.bits > 0 or option.scheme.factor_bits in (8, 4)


def _rank_faults(curves: Curves, policies: Sequence[tuple[str, int] | None]) -> list[str]:
    """Ranks above the matrix, and ranks that its curve does not hold; a layer that has no low-rank form is passed over.

    Whoever typed 65 is told why they read 80.
    """
    above: dict[tuple[str, int], list[str]] = {}
    absent: dict[tuple[str, int], list[str]] = {}
    for matrix, policy in zip(curves.matrices, policies, strict=True):
        ranks = ranks_of(matrix)
        if policy is None or not ranks or policy[1] in ranks:
            continue
        side = min(matrix.out_features, matrix.in_features)
        if policy[1] > side:
            above.setdefault(policy, []).append(f"{matrix.layer} ({matrix.out_features} x {matrix.in_features})")
        else:
            absent.setdefault(policy, []).append(f"{matrix.layer} (has {', '.join(map(str, ranks))})")
    rounded = f" (a rank is rounded up to a multiple of {RANK_STEP})"
    faults = [f"{name}: {rank} is above the smaller side of {few(layers)}{rounded}" for (name, rank), layers in above.items()]
    return faults + [
        f"{name}: {rank} was not measured for {few(layers)}{rounded}; take one of these or measure again in another folder"
        for (name, rank), layers in absent.items()
    ]


def ranks_of(matrix: MatrixCurve) -> list[int]:
    """Ranks of the low-rank format on a matrix's curve, rising."""
    return sorted({option.scheme.rank for option in matrix.options if option.scheme.format is Format.LOW_RANK})


def check_ranks(curves: Curves, policies: Sequence[tuple[str, int] | None]) -> None:
    """Check the rank that each matrix is to have.

    Args:
        curves: The matrices.
        policies: For each the name of the option that asks, and the rank; none where none is asked for.

    Raises:
        ConfigError: a rank is above the matrix, or not on its curve.
    """
    if faults := _rank_faults(curves, policies):
        raise ConfigError.of(faults)
