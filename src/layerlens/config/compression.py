"""The options of `layerlens compress`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from layerlens.config.data import DataConfig
from layerlens.config.spellings import Bytes, HowMany, Integers, Names, split_pairs
from layerlens.words import Role

TARGETS = ("size", "bits_per_weight", "cosine", "rank")
#: Families of formats by their names in `plan.json`; to keep a matrix as it is, is always allowed.
FORMAT_FAMILIES = ("half", "integer", "low-rank", "integer+low-rank")
LARGEST_WIDTH, SMALLEST_WIDTH = 8, 2
FACTOR_WIDTHS = (16, 8, 4)
DEFAULT_QUANT_BITS, DEFAULT_MIN_DIM = 8, 1024

#: Kernels like ranks that are multiples of this.
RANK_STEP = 16


def _to_step(rank: int) -> int:
    return -(-rank // RANK_STEP) * RANK_STEP


#: A rank as typed, rounded up to a multiple of 16.
Rank = Annotated[int, Field(gt=0), AfterValidator(_to_step)]


class CompressConfig(DataConfig):
    """How small a model must become, what may be done to it, and what is measured. Exactly one target is needed."""

    size: Bytes | None = Field(
        default=None, gt=0, description="bytes of all tensors of the folder at most, such as 1.5GB (powers of 1,024)"
    )
    bits_per_weight: float | None = Field(
        default=None, gt=0, description="8 x bytes of all tensors over parameters of the model, at most"
    )
    cosine: float | None = Field(
        default=None, gt=0, le=1, description="smallest size whose predicted mean cosine of the layers' outputs reaches this"
    )
    rank: Rank | None = Field(
        default=None, description="factors of this rank (rounded up to a multiple of 16) for every large matrix, the rest kept"
    )
    quant_bits: int = Field(default=DEFAULT_QUANT_BITS, description="with --rank: bits of a factor's number, 16, 8 or 4")
    min_dim: int = Field(
        default=DEFAULT_MIN_DIM, gt=0, description="with --rank: factors only for matrices with both sides this long at least"
    )
    keep: Names = Field(
        default=[],
        description="layers to keep as they are: patterns of module paths or of roles, such as *.mlp.*,head,attention.*",
    )
    first_block_rank: Rank | None = Field(default=None, description="rank of low-rank matrices in the first block")
    last_block_rank: Rank | None = Field(default=None, description="rank of low-rank matrices in the last block")
    role_ranks: Annotated[dict[str, Rank], BeforeValidator(split_pairs)] = Field(
        default={},
        description="rank of low-rank matrices by role: attention.query=128,mlp.*=256; the first that matches, behind first "
        "and last block",
    )
    rank_floor: Rank = Field(default=16, description="smallest rank of any factors")
    widths: Integers = Field(default=[8, 7, 6, 5, 4, 3, 2], description="widths of integer codes on offer, in bits")
    formats: Names = Field(default=list(FORMAT_FAMILIES), description="families of formats on offer beside keep")
    group_size: int = Field(default=64, gt=0, multiple_of=8, description="features that share one scale")
    group_by: Literal["none", "fused", "block"] = Field(
        default="none",
        description="matrices that must share a format: none, those a runtime fuses (query + key + value, gate + up), or a block",
    )
    num_samples: int = Field(default=128, gt=0, description="calibration samples")
    held_out_samples: int = Field(default=32, gt=1, description="held-out samples that probes and the race are measured on")
    batch_size: int = Field(default=8, gt=0, description="samples per batch")
    probes: HowMany = Field(
        default="auto",
        description="matrices to measure alone: all, few (some of each role), off (none), or auto (all where that is cheap)",
    )
    leave_one_out: bool = Field(default=False, description="revert one layer at a time and name those that carry the model")
    effort: Literal["auto", "full", "lean"] = Field(
        default="auto",
        description="lean rounds by inputs alone and has neither corrections nor ranks above a quarter of the smaller side, in a "
        "fraction of the time; auto: above 300 M weights",
    )
    engine: Literal["local", "ray"] = Field(default="local", description="who runs work per layer: this machine, or Ray")
    processes: int = Field(default=1, gt=0, description="processes that work per layer is shared between")
    threads: int | None = Field(default=None, gt=0, description="processor threads; torch's own choice if not given")
    max_memory: Bytes | None = Field(
        default=None, gt=0, description="peak memory of the whole process at most, such as 2GB (powers of 1,024)"
    )
    max_store: Bytes = Field(
        default=1 << 30,
        gt=0,
        description="disk for hidden states while streaming at most; with less, blocks are computed again more often",
    )

    @property
    def ranks_asked(self) -> list[int]:
        """Ranks that some policy asks for, rising; curves must offer them."""
        return sorted(set(self._asked().values()))

    def _asked(self) -> dict[str, int]:
        """The ranks that are asked for, by who asks."""
        named = {name: getattr(self, name) for name in ("rank", "first_block_rank", "last_block_rank")}
        asked = {name: rank for name, rank in named.items() if rank is not None}
        return {**asked, **{f"role_ranks {role}": rank for role, rank in self.role_ranks.items()}}

    @field_validator("quant_bits")
    @classmethod
    def _factor_width_is_known(cls, value: int) -> int:
        if value not in FACTOR_WIDTHS:
            raise ValueError(f"factors take {', '.join(map(str, FACTOR_WIDTHS))} bits; got {value}")
        return value

    @field_validator("widths")
    @classmethod
    def _widths_are_known(cls, value: list[int]) -> list[int]:
        if bad := [width for width in value if not SMALLEST_WIDTH <= width <= LARGEST_WIDTH]:
            raise ValueError(f"codes take {SMALLEST_WIDTH} to {LARGEST_WIDTH} bits; got {', '.join(map(str, bad))}")
        if not value:
            raise ValueError("at least one width is needed; leave integer out of formats to have no codes")
        return sorted(set(value), reverse=True)

    @field_validator("formats")
    @classmethod
    def _formats_are_known(cls, value: list[str]) -> list[str]:
        value = [name for name in value if name != "keep"]
        if bad := [name for name in value if name not in FORMAT_FAMILIES]:
            raise ValueError(f"unknown {', '.join(bad)}; known are {', '.join(FORMAT_FAMILIES)}")
        if not value:
            raise ValueError(f"at least one is needed of {', '.join(FORMAT_FAMILIES)}")
        return [name for name in FORMAT_FAMILIES if name in value]

    @field_validator("role_ranks")
    @classmethod
    def _ranks_name_roles(cls, value: dict[str, int]) -> dict[str, int]:
        if bad := [name for name in value if not any(fnmatchcase(role.value, name) for role in Role)]:
            raise ValueError(f"unknown role {', '.join(bad)}; known are {', '.join(role.value for role in Role)}")
        return value

    @model_validator(mode="after")
    def _has_one_target(self) -> CompressConfig:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            flags = [f"--{name.replace('_', '-')}" for name in TARGETS]
            got = " and ".join(f"--{name.replace('_', '-')}" for name in given) or "none of them"
            raise ValueError(f"give exactly one of {', '.join(flags[:-1])} or {flags[-1]}; got {got}")
        if low := [f"{name} {rank}" for name, rank in self._asked().items() if rank < self.rank_floor]:
            raise ValueError(f"rank_floor: {self.rank_floor} is above {', '.join(low)}; a rank asked for is at least the floor")
        if self.rank is None:
            idle = {"quant_bits": DEFAULT_QUANT_BITS, "min_dim": DEFAULT_MIN_DIM}
            if named := [name for name, default in idle.items() if getattr(self, name) != default]:
                raise ValueError(f"{named[0]}: only the fixed-rank form takes {' and '.join(named)}; give --rank too")
        return self
