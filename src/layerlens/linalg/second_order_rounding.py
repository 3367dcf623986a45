"""Codes that make good in later weights what was lost in earlier ones, for the least

    ½ tr(B E A Eᵀ),   E = Ŵ − W   [out_features in_features]

(B the identity where none is given). Three steps:

1. Feedback. Groups of columns in the order of `error_feedback`; a weight is rounded after the errors of earlier columns, and
   with B of earlier blocks of rows, have been taken off it. A group's scale is found when the group is reached: by squared error
   weighted with the pivots; then among eight scales around that one by what the group loses once its columns have made each
   other's errors good; then by one visit of the descent to the group alone, as if all later groups were free.
2. Descent from there over codes and scales (`code_descent`).
3. Refusal. Rows (with B: the matrix) that end worse than nearest rounding with searched scales are given that instead.

    blocks of rows r and groups of columns g; equal numbers are rounded together,       g0 g1 g2 g3
    after what lies to their left and above                                       r0    0  1  2  3
                                                                                  r1    1  2  3  4
                                                                                  r2    2  3  4  5

Measured on a trained Llama of width 256, groups of 64, as shares of nearest rounding's loss ½ tr(B E A Eᵀ): GPTQ in the
stored order with searched scales .24 … .26 (.36 at 2 bits), this without B .15 … .20, with B .085 … .10. Divergence of
the whole model on held-out text at 4, 3 and 2 bits: .0171, .067, .277 (nearest); .0059, .025, .142 (GPTQ); .0049, .019,
.092 (without B); .0026, .0106, .062 (with B).

Sources: Frantar et al. (2022), arXiv 2210.17323 (GPTQ); Tseng, Sun, De Sa (2025), arXiv 2505.22988 (both sides). Float32.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from layerlens.linalg.code_descent import descend_, moved, rounding_error
from layerlens.linalg.codes import Codes, dequantise
from layerlens.linalg.error_feedback import DAMPING, InputFeedback, OutputFeedback, input_feedback, output_feedback
from layerlens.linalg.nearest_rounding import (
    code_range,
    inverse_scales,
    round_with_searched_scales,
    searched_scales,
    stored_scales,
)
from layerlens.linalg.quadratic_form import row_form_differences, trace_form_difference

#: Scales that are tried by a group's true loss, as factors of the one found by weighted squared error.
_FACTORS = (1.0, 0.8, 0.85, 0.9, 0.95, 1.03, 1.06, 1.1)
#: Columns between two products that pass errors on within a group.
_COLUMNS_AT_ONCE = 8
#: Groups whose errors go to all later columns in one product: each by itself, such a product would wait for memory.
_GROUPS_AT_ONCE = 8
#: By how much nearest rounding has to be seen to lose more, to be sure in float32.
_SURE = 1e-3
#: Rows that are rounded together where rows do not see each other: fewer of long ones, whose copies are what fills the memory.
_ROWS_AT_ONCE, _NUMBERS_AT_ONCE = 1024, 1 << 22


def second_order_rounding(
    weight: Float[Tensor, "out_features in_features"],
    input_gram: Float[Tensor, "in_features in_features"] | InputFeedback,
    bits: int,
    group_size: int,
    *,
    output_gram: Float[Tensor, "out_features out_features"] | OutputFeedback | None = None,
    damping: float = DAMPING,
    sweeps: int = 2,
) -> Codes:
    """Round a matrix so that its outputs, and with B the loss, change least.

    Args:
        weight: In any floating type.
        input_gram: A = E[x xᵀ], or what `input_feedback` made of it, which serves all widths and all matrices of that input.
        bits: 2 … 8.
        group_size: Neighbouring inputs that share a scale.
        output_gram: B = E[g gᵀ], or what `output_feedback` made of it. None: every row by itself.
        damping: Ridge as a share of a Gram's mean eigenvalue, where it is still to be factored.
        sweeps: Of the descent.

    Returns:
        Codes whose ½ tr(B E A Eᵀ) is at most that of `round_with_searched_scales` weighted with A's diagonal.
    """
    inputs = input_gram if isinstance(input_gram, InputFeedback) else input_feedback(input_gram, group_size, damping=damping)
    outputs = output_feedback(output_gram, damping=damping) if isinstance(output_gram, Tensor) else output_gram
    values = weight.detach().float()
    if outputs is not None:
        return _rounded(values, inputs, outputs, bits, sweeps)
    padded = len(inputs.order)
    codes = torch.empty(len(values), padded, dtype=torch.int8, device=values.device)
    scales = torch.empty(len(values), padded // inputs.group_size, dtype=torch.bfloat16, device=values.device)
    step = rows_at_once(padded)
    for start in range(0, len(values), step):
        rows = slice(start, start + step)
        part = _rounded(values[rows], inputs, None, bits, sweeps)
        codes[rows], scales[rows] = part.values, part.scales
    return Codes(codes, scales, bits, inputs.group_size, inputs.features)


def rows_at_once(features: int) -> int:
    """Rows of so many features that are rounded together where rows do not see each other."""
    return min(_ROWS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // max(1, features)))


def _rounded(
    weight: Float32[Tensor, "rows features"], inputs: InputFeedback, outputs: OutputFeedback | None, bits: int, sweeps: int
) -> Codes:
    rows, features = weight.shape
    size, padded = inputs.group_size, len(inputs.order)
    order = torch.arange(rows, device=weight.device) if outputs is None else outputs.order
    padded_rows = rows if outputs is None else len(outputs.gram)
    block_size = rows if outputs is None else outputs.block_size
    target = weight.new_zeros(padded, padded_rows)
    target[:features, :rows] = weight.t()[:, order]
    codes = torch.empty(padded, padded_rows, dtype=torch.int8, device=weight.device)
    scales = weight.new_empty(padded // size, padded_rows)
    fed_codes, fed_scales, losses = _fed_back(target[inputs.order], inputs, outputs, bits, block_size)
    codes[inputs.order] = fed_codes
    scales[inputs.order[::size] // size] = fed_scales
    del fed_codes, fed_scales
    gram = None if outputs is None else outputs.gram
    if sweeps:
        losses = descend_(target, codes, scales, inputs.gram, inputs.ridge, gram, bits, sweeps)
    back = order.argsort()
    found = Codes(
        values=codes.t()[back].contiguous(),
        scales=scales.t()[back].to(torch.bfloat16).contiguous(),
        bits=bits,
        group_size=size,
        features=features,
    )
    return _refused_by_row(weight, found, inputs, losses) if outputs is None else _refused(weight, found, inputs, outputs)


def _fed_back(
    target: Float32[Tensor, "padded rows"], inputs: InputFeedback, outputs: OutputFeedback | None, bits: int, block_size: int
) -> tuple[Int8[Tensor, "padded rows"], Float32[Tensor, "groups rows"], Float32[Tensor, " rows"]]:
    """Codes and scales after the first step, and e (A + λI) eᵀ of every row; everything in the order of rounding."""
    padded, rows = target.shape
    size = inputs.group_size
    num_groups, num_blocks = padded // size, rows // block_size
    pivots = inputs.pivots.view(num_groups, size)
    units = torch.stack([inputs.unit[start : start + size, start : start + size] for start in range(0, padded, size)])
    identity = torch.eye(size, device=target.device).expand_as(units)
    inverses = torch.linalg.solve_triangular(units, identity, upper=True, unitriangular=True)
    # What an error in a group costs once all later groups have made it good.
    squares = (units * pivots.unsqueeze(1)) @ units.transpose(1, 2)
    codes = torch.empty(padded, rows, dtype=torch.int8, device=target.device)
    scales = target.new_empty(num_groups, rows)
    # (E N)ᵀ: what the errors made so far weigh in each column.
    weighing = torch.zeros_like(target)
    for wave in range(num_groups + num_blocks - 1):
        pairs = [(block, wave - block) for block in range(num_blocks) if 0 <= wave - block < num_groups]
        places = [(slice(g * size, (g + 1) * size), slice(b * block_size, (b + 1) * block_size)) for b, g in pairs]
        groups = [group for _, group in pairs]
        shifted = []
        for group, (of, at) in zip(groups, places, strict=True):
            shift = weighing[of, at]
            if outputs is not None and at.start:
                shift = shift + weighing[of, : at.start] @ outputs.unit[: at.start, at]
            # So shifted, the group's columns need to know only of each other's errors.
            shifted.append(torch.addmm(target[of, at], inverses[group].t(), shift, alpha=-1.0))
        found_codes, found_scales = _group_codes(torch.stack(shifted), inverses[groups], squares[groups], pivots[groups], bits)
        for place, (group, (of, at)) in enumerate(zip(groups, places, strict=True)):
            codes[of, at], scales[group, at] = found_codes[place].to(torch.int8), found_scales[place]
            error = found_codes[place] * found_scales[place] - target[of, at]
            first = group - group % _GROUPS_AT_ONCE
            some = slice(first * size, min(padded, (first + _GROUPS_AT_ONCE) * size))
            weighing[of.start : some.stop, at].addmm_(inputs.unit[of, of.start : some.stop].t(), error)
            if of.stop == some.stop < padded:
                error = rounding_error(codes[some, at], scales[first : group + 1, at], target[some, at])
                weighing[some.stop :, at].addmm_(inputs.unit[some, some.stop :].t(), error)
    return codes, scales, weighing.square_().mul_(inputs.pivots.unsqueeze(1)).sum(0)


def _group_codes(
    values: Float32[Tensor, "pairs size rows"],
    inverses: Float32[Tensor, "pairs size size"],
    squares: Float32[Tensor, "pairs size size"],
    pivots: Float32[Tensor, "pairs size"],
    bits: int,
) -> tuple[Float32[Tensor, "pairs size rows"], Float32[Tensor, "pairs rows"]]:
    """Codes and scale of one group of each row, by the group's loss after feedback among its columns; then one visit more."""
    pairs, size, rows = values.shape
    start_scales = searched_scales(values.transpose(1, 2).contiguous(), pivots.unsqueeze(1), bits)
    factors = torch.tensor(_FACTORS, device=values.device)
    tried = stored_scales(start_scales.unsqueeze(1) * factors.view(1, -1, 1))
    inverse, count = inverse_scales(tried), len(_FACTORS)
    low, high = code_range(bits)
    # Column by column, what is to be rounded gives way to what rounding added to it.
    left = values.unsqueeze(2).expand(pairs, size, count, rows).clone(memory_format=torch.contiguous_format)
    codes = torch.empty_like(left)
    for start in range(0, size, _COLUMNS_AT_ONCE):
        stop = min(size, start + _COLUMNS_AT_ONCE)
        for column in range(start, stop):
            code = torch.mul(left[:, column], inverse, out=codes[:, column]).round_().clamp_(low, high)
            left[:, column] = torch.addcmul(-left[:, column], code, tried)
            if column + 1 < stop:
                weights = inverses[:, column, column + 1 : stop, None, None]
                left[:, column + 1 : stop].addcmul_(weights, left[:, column, None])
        if stop < size:
            flat = left.view(pairs, size, count * rows)
            flat[:, stop:].baddbmm_(inverses[:, start:stop, stop:].transpose(1, 2), flat[:, start:stop])
    best = (left.square_() * pivots[:, :, None, None]).sum(1).argmin(1, keepdim=True)
    chosen = codes.gather(2, best.unsqueeze(1).expand(pairs, size, 1, rows)).squeeze(2)
    scales = tried.gather(1, best).squeeze(1)
    return moved(squares @ (chosen * scales.unsqueeze(1) - values), squares, chosen, scales, bits)


def _refused(weight: Float32[Tensor, "rows features"], found: Codes, inputs: InputFeedback, outputs: OutputFeedback) -> Codes:
    """What was found, or nearest rounding where that loses less; of the whole matrix."""
    gram = inputs.gram[: inputs.features, : inputs.features]
    nearest = round_with_searched_scales(weight, found.bits, found.group_size, gram.diagonal())
    error, other = (dequantise(codes) - weight for codes in (found, nearest))
    rows = outputs.gram[: len(weight), : len(weight)].clone()
    rows.diagonal().sub_(outputs.ridge)
    order = outputs.order
    return found if trace_form_difference(error[order], other[order], gram, rows) <= 0.0 else nearest


def _refused_by_row(
    weight: Float32[Tensor, "rows features"], found: Codes, inputs: InputFeedback, losses: Float32[Tensor, " rows"]
) -> Codes:
    """What was found, or nearest rounding in rows where that loses less.

    By a few columns of the factor alone nearest rounding is seen to lose more than what was found, `losses` with their ridge, in
    nearly every row where inputs are correlated; the product with the whole Gram is left for the others.
    """
    gram = inputs.gram[: inputs.features, : inputs.features]
    nearest = round_with_searched_scales(weight, found.bits, found.group_size, gram.diagonal())
    error, other = (dequantise(codes) - weight for codes in (found, nearest))
    # e (A + λI) eᵀ is a sum over the columns of E C: those of the largest columns of C hold most of it.
    seen = (other @ inputs.largest_columns).square_() @ inputs.largest_pivots
    least = seen * (1.0 - _SURE) - inputs.ridge * other.square().sum(1)
    most = losses * (1.0 + _SURE) - inputs.ridge * error.square().sum(1)
    unsure = torch.nonzero(least < most).squeeze(1)
    is_worse = row_form_differences(error[unsure], other[unsure], gram) > 0.0
    worse = unsure[is_worse]
    values, scales = found.values.clone(), found.scales.clone()
    values[worse], scales[worse] = nearest.values[worse], nearest.scales[worse]
    return replace(found, values=values, scales=scales)
