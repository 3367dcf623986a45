"""All options of one matrix with their prices, and what they hold.

Every option is priced by the error of what would be stored and read back: codes with their bfloat16 scales, factors rounded to
their bits. Factors are stored rank by rank and rounded each by itself, so a smaller rank is the front of a larger one: one
decomposition and one rounding give the whole curve, exactly.

What is kept (`Solved.tensors`), by name:

    int4.codes, int4.scales     second-order codes of a width, as a file has them
    whitened.up, whitened.down  factors of the largest rank, bfloat16
    plain.up, plain.down        the same of the plain decomposition, a baseline
    int3+.up, int3+.down        factors of what 3-bit codes lost
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.compression import Option, Rounding
from layerlens.artifacts.formats import HALF, KEEP, Format, Scheme, integer, low_rank, size_bytes
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.pricing import Errors, Pricer
from layerlens.compressing.sensitivity import Sensitivity
from layerlens.compressing.stored_matrix import restored, stored
from layerlens.linalg.bit_planes import unpack_codes
from layerlens.linalg.codes import Codes, dequantise
from layerlens.linalg.error_feedback import InputFeedback, OutputFeedback, input_feedback, output_feedback
from layerlens.linalg.fast_products import fast_products
from layerlens.linalg.nearest_rounding import round_to_nearest
from layerlens.linalg.second_order_rounding import second_order_rounding
from layerlens.linalg.whitened_factors import Factors, plain_factors, whitened_factors
from layerlens.nn.stored_form import coded_shapes

#: Rows whose error is formed at once, and how many numbers they may have.
_ROWS_AT_ONCE, _NUMBERS_AT_ONCE = 2048, 1 << 22


@dataclass(frozen=True)
class Solved:
    """What was found for one matrix.

    Attributes:
        options: Cheapest first.
        tensors: What the options hold, by name.
        spectrum_rank: Effective rank of the whitened matrix: e to the entropy of its squared singular values' shares.
    """

    options: list[Option]
    tensors: dict[str, Tensor]
    spectrum_rank: float


@fast_products()
def solve_matrix(
    weight: Float[Tensor, "out_features in_features"], sensitivity: Sensitivity, kept_element_bytes: int, grid: OptionGrid
) -> Solved:
    """Find and price every option of a matrix.

    Args:
        weight: The matrix in float32.
        sensitivity: What its errors cost.
        kept_element_bytes: Bytes of a number in the checkpoint.
        grid: Which options there are.
    """
    return _Solver(weight, sensitivity, kept_element_bytes, grid).solve()


class _Solver:
    def __init__(self, weight: Tensor, sensitivity: Sensitivity, kept_element_bytes: int, grid: OptionGrid) -> None:
        self.weight, self.sensitivity, self.grid = weight, sensitivity, grid
        self.shape = (weight.shape[0], weight.shape[1])
        self.kept_element_bytes = kept_element_bytes
        self.pricer = Pricer(weight, sensitivity)
        self.tensors: dict[str, Tensor] = {}
        self.spectrum_rank = 0.0

    def solve(self) -> Solved:
        options = [*self._kept()]
        if self.sensitivity.is_idle:
            options += [self._nearest(bits) for bits in self.grid.idle_widths]
        else:
            inputs = input_feedback(self.sensitivity.input_gram, self.grid.group_size, damping=self.grid.damping)
            outputs = self._output_feedback()
            for bits in self.grid.widths:
                options += [self._nearest(bits), *self._second_order(bits, inputs, outputs)]
            del inputs, outputs
            options += self._low_rank(Rounding.WHITENED, self.grid.factor_bits)
            options += self._low_rank(Rounding.PLAIN, (8,))
        options.sort(key=lambda option: (option.size_bytes, option.predicted_loss, option.scheme.name, option.rounding))
        return Solved(options, self.tensors, self.spectrum_rank)

    def _kept(self) -> Iterator[Option]:
        yield self._option(KEEP, Rounding.NONE, Errors(0.0, 0.0, 0.0))
        if self.kept_element_bytes > 2:
            errors = self._errors(lambda rows: self.weight[rows].bfloat16().float().sub_(self.weight[rows]))
            yield self._option(HALF, Rounding.NONE, errors)

    def _nearest(self, bits: int) -> Option:
        codes = round_to_nearest(self.weight, bits, self.grid.group_size)
        return self._option(integer(bits, self.grid.group_size), Rounding.NEAREST, self._errors_of_codes(codes))

    def _output_feedback(self) -> OutputFeedback | None:
        """Rows see each other's errors where the output Gram is known in full."""
        gram = self.sensitivity.output_gram
        is_wanted = gram.ndim == 2 and set(self.grid.two_sided_widths) & set(self.grid.widths)
        return output_feedback(gram, damping=self.grid.output_damping) if is_wanted else None

    def _second_order(self, bits: int, inputs: InputFeedback, outputs: OutputFeedback | None) -> Iterator[Option]:
        scheme = integer(bits, self.grid.group_size)
        rows = outputs if bits in self.grid.two_sided_widths else None
        codes = second_order_rounding(self.weight, inputs, bits, self.grid.group_size, output_gram=rows, sweeps=self.grid.sweeps)
        self.tensors |= {f"{scheme.name}.{name}": values for name, values in stored(scheme, codes=codes).items()}
        yield self._option(scheme, Rounding.SECOND_ORDER, self._errors_of_codes(codes))
        schemes = self.grid.corrections(bits, *self.shape) if bits in self.grid.corrected_widths else []
        if schemes:
            error = dequantise(codes).sub_(self.weight)
            gram, output = self.sensitivity.input_gram, self.sensitivity.output_gram
            up, down = self._kept_factors(f"int{bits}+", whitened_factors(error.neg_(), gram, output, schemes[-1].rank))
            yield from self._ranks(schemes, Rounding.SECOND_ORDER, error.neg_(), up, down)

    def _low_rank(self, rounding: Rounding, factor_bits: tuple[int, ...]) -> Iterator[Option]:
        ranks = self.grid.ranks(*self.shape)
        if not ranks:
            return
        up, down = self._whitened(ranks[-1]) if rounding is Rounding.WHITENED else self._plain(ranks[-1])
        for bits in factor_bits:
            schemes = self.grid.factor_schemes(ranks, bits, *self.shape)
            # A table is turned round in place: a second one beside it is what memory has no room for.
            self.weight.neg_()
            try:
                yield from self._ranks(schemes, rounding, self.weight, up, down)
            finally:
                self.weight.neg_()

    def _whitened(self, rank: int) -> tuple[Tensor, Tensor]:
        factors = whitened_factors(self.weight, self.sensitivity.input_gram, self.sensitivity.output_gram, rank)
        self.spectrum_rank = effective_rank(factors.loss_of_rank, min(self.shape))
        return self._kept_factors("whitened", factors)

    def _plain(self, rank: int) -> tuple[Tensor, Tensor]:
        return self._kept_factors("plain", plain_factors(self.weight, rank))

    def _ranks(self, schemes: list[Scheme], rounding: Rounding, error: Tensor, up: Tensor, down: Tensor) -> Iterator[Option]:
        """Options that differ by their rank alone."""
        if not schemes:
            return
        largest = schemes[-1]
        up, down = rounded_factors(up[: largest.rank], down[: largest.rank], largest)
        found = self.pricer.ranks(error, up, down, [scheme.rank for scheme in schemes])
        for scheme, errors in zip(schemes, found, strict=True):
            yield self._option(scheme, rounding, errors)

    def _kept_factors(self, name: str, factors: Factors) -> tuple[Tensor, Tensor]:
        """Keep factors in bfloat16, and go on with what is kept: in float32 the long one alone is half a table."""
        up, down = factors.up.bfloat16().contiguous(), factors.down.bfloat16().contiguous()
        self.tensors |= {f"{name}.up": up, f"{name}.down": down}
        return up, down

    def _errors_of_codes(self, codes: Codes) -> Errors:
        return self._errors(
            lambda rows: dequantise(replace(codes, values=codes.values[rows], scales=codes.scales[rows])).sub_(self.weight[rows])
        )

    def _errors(self, error_of: Callable[[slice], Tensor]) -> Errors:
        """Of an error that is formed a few rows at a time."""
        step = min(_ROWS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // self.shape[1]))
        starts = range(0, len(self.weight), step)
        return self.pricer.errors_of_parts(error_of(slice(start, start + step)) for start in starts)

    def _option(self, scheme: Scheme, rounding: Rounding, errors: Errors) -> Option:
        return Option(
            scheme=scheme,
            rounding=rounding,
            size_bytes=size_bytes(scheme, *self.shape, self.kept_element_bytes),
            predicted_loss=errors.loss,
            weight_error=errors.weight,
            output_error=errors.output,
        )


def rounded_factors(
    up: Float[Tensor, "rank out_features"], down: Float[Tensor, "rank in_features"], scheme: Scheme
) -> tuple[Float[Tensor, "rank out_features"], Float[Tensor, "rank in_features"]]:
    """Factors as they are read back after they were stored."""
    form = low_rank(len(up), scheme.factor_bits, scheme.group_size)
    tensors = stored(form, up=up, down=down)
    if scheme.factor_bits == 16:
        return tensors["up"].float(), tensors["down"].float()
    shapes = coded_shapes(form, up.shape[1], down.shape[1])
    read = []
    for name in ("up", "down"):
        shape = shapes[name]
        values = unpack_codes(tensors[name], shape.bits, shape.padded)
        read.append(dequantise(Codes(values, tensors[shape.scales_name], shape.bits, shape.group_size, shape.features)))
    return read[0], read[1]


def tensors_of_option(
    option: Option, found: dict[str, Tensor], weight: Float[Tensor, "out_features in_features"] | None
) -> dict[str, Tensor]:
    """What an option stores, by name within its module.

    Args:
        option: One of `Solved.options`.
        found: Those of `Solved.tensors` that it needs (`needed_tensors`); factors may be longer than its rank.
        weight: The matrix as the checkpoint has it; needed for what is made from it alone.
    """
    scheme = option.scheme
    match scheme.format:
        case Format.KEEP | Format.HALF:
            return stored(scheme, weight=weight)
        case Format.INTEGER if option.rounding is Rounding.NEAREST:
            if weight is None:
                raise ValueError(f"{scheme.name} by rounding to nearest is made from the matrix, and none was given")
            return stored(scheme, codes=round_to_nearest(weight, scheme.bits, scheme.group_size))
    tensors: dict[str, Tensor] = {}
    if scheme.format.has_codes:
        tensors |= {name: found[f"int{scheme.bits}.{name}"] for name in ("codes", "scales")}
    if scheme.format.has_factors:
        name = factors_name(option)
        up, down = (found[f"{name}.{side}"][: scheme.rank] for side in ("up", "down"))
        tensors |= stored(low_rank(scheme.rank, scheme.factor_bits, scheme.group_size), up=up, down=down)
    return tensors


def needed_tensors(option: Option) -> dict[str, int | None]:
    """Names in `Solved.tensors` of what an option holds, and how many rows of each; none for all."""
    scheme = option.scheme
    is_made = scheme.format in (Format.KEEP, Format.HALF) or option.rounding is Rounding.NEAREST
    names: dict[str, int | None] = {}
    if scheme.format.has_codes and not is_made:
        names |= {f"int{scheme.bits}.codes": None, f"int{scheme.bits}.scales": None}
    if scheme.format.has_factors:
        names |= {f"{factors_name(option)}.{side}": scheme.rank for side in ("up", "down")}
    return names


def factors_name(option: Option) -> str:
    """Under what name an option's factors are kept."""
    if option.scheme.format is Format.INTEGER_LOW_RANK:
        return f"int{option.scheme.bits}+"
    return "plain" if option.rounding is Rounding.PLAIN else "whitened"


def restored_option(
    option: Option, tensors: dict[str, Tensor], out_features: int, in_features: int
) -> Float[Tensor, "out_features in_features"]:
    """The matrix that an option's stored tensors stand for, in float32."""
    return restored(option.scheme, tensors, out_features, in_features)


def effective_rank(loss_of_rank: Float[Tensor, " ranks"], smaller_side: int) -> float:
    """e to the entropy of the shares that each rank takes of the loss; what the last one leaves is spread over those that follow.

    Source: Roy, Vetterli (2007), The effective rank.
    """
    beyond = smaller_side - (len(loss_of_rank) - 1)
    spread = loss_of_rank[-1:].expand(beyond) / beyond if beyond else loss_of_rank[:0]
    taken = torch.cat([loss_of_rank[:-1] - loss_of_rank[1:], spread]).double().clamp_min(0.0)
    total = float(taken.sum())
    if total <= 0:
        return 0.0
    shares = taken / total
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))
