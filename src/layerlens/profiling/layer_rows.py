"""Statistics of one layer in token space: its rows x_t and g_t, and what their T × T Grams say.

    ‖Σ_t g_t x_tᵀ‖² = Σ_{t,t'} (x_t · x_t') (g_t · g_t')

holds for any tokens, those of one sample or of all; so two T × T matrices give every norm and inner product, and, whitened
(`linalg/token_whitening.py`), the gain curve. Tokens without a gradient are dropped at once.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerlens.artifacts.layers import LayerSpec
from layerlens.curves.token_gain import token_gain
from layerlens.linalg.gram import row_gram
from layerlens.linalg.per_sample_norms import ghost_norms, token_gram
from layerlens.linalg.row_buffer import RowBuffer
from layerlens.linalg.sparse_tokens import at_tokens, few_with_value, has_value
from layerlens.linalg.token_mixing import TokenMixer
from layerlens.linalg.token_whitening import whitened_gram
from layerlens.profiling.layer_statistics import GradientProducts, LayerStatistics, SharedInput

#: From this damping on a Gram in float32 leaves a curve that is right to 2e-5 of its maximum, even where a few tokens are a
#: thousand times larger than the others; the error grows with its inverse.
_SINGLE_DAMPING = 0.05


class _Rows:
    """Rows in the type that they came in, and rows beside them that only a Gram is summed from.

    Attributes:
        kept: The rows.
        is_gram_row: Which of them the Gram is summed from as well.
        beside: Rows that only the Gram is summed from, in float32.
    """

    def __init__(self, num_rows: int) -> None:
        self.kept = RowBuffer(num_rows)
        self.beside = RowBuffer(0)
        self._flags: list[Bool[Tensor, " rows"]] = []
        self._gram: Float[Tensor, "stacked stacked"] | None = None

    def append(self, rows: Float[Tensor, "rows features"], is_gram_row: Bool[Tensor, " rows"]) -> None:
        self.kept.append(rows)
        self._flags.append(is_gram_row)

    @property
    def is_gram_row(self) -> Bool[Tensor, " rows"]:
        return torch.cat(self._flags) if self._flags else torch.zeros(0, dtype=torch.bool)

    def gram_rows(self) -> Float[Tensor, "rows features"] | None:
        """All rows that the Gram is summed from, in float32; None where none came."""
        parts = [] if self.kept.rows is None else [self.kept.rows[self.is_gram_row].float()]
        if self.beside.rows is not None:
            parts.append(self.beside.rows)
        return torch.cat(parts) if parts else None

    def gram(self, is_used: Bool[Tensor, " rows"] | None, damping: float | None) -> Float[Tensor, "stacked stacked"]:
        """Inner products of the rows that are used (None: all), then of those beside; kept until `forget`.

        Args:
            is_used: The same in every call.
            damping: What it is to be whitened with, by which the type is chosen; None where it is not.
        """
        # Rows beside make the whitening a difference of two large terms.
        is_double = len(self.beside) > 0 or (damping is not None and damping < _SINGLE_DAMPING)
        dtype = torch.float64 if is_double else torch.float32
        if self._gram is None or (is_double and self._gram.dtype != dtype):
            assert self.kept.rows is not None
            rows = self.kept.rows if is_used is None or bool(is_used.all()) else self.kept.rows[is_used]
            self._gram = row_gram(rows if self.beside.rows is None else torch.cat([rows.float(), self.beside.rows]), dtype)
        return self._gram

    def forget(self) -> None:
        """Let the Gram go."""
        self._gram = None

    def clear(self) -> None:
        self.kept.clear()
        self.beside.clear()


class InputRows(SharedInput):
    """The rows x_t of all batches, and which of them any layer has a gradient at."""

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.batch_start = 0
        self._rows = _Rows(num_rows)
        self._samples: list[Int[Tensor, " rows"]] = []
        self._is_used: list[Bool[Tensor, " rows"]] = []
        self._token_gram: Float[Tensor, "samples tokens tokens"] | None = None
        self._whitened: Float[Tensor, "used used"] | None = None

    def add(self, inputs: Float[Tensor, "samples tokens in_features"], mixer: TokenMixer | None, first_sample: int) -> None:
        self.first_sample = first_sample
        num_samples, num_tokens, _ = inputs.shape
        in_gram = inputs.new_zeros(num_samples, num_tokens, dtype=torch.bool)
        if mixer is not None:
            if mixer.is_exact(num_tokens):
                mask = mixer.kept(num_samples, num_tokens)
                in_gram = torch.ones_like(in_gram) if mask is None else mask
                self.num_rows += int(in_gram.sum().item())
            else:
                mixed = mixer.rows(inputs.float())
                self._rows.beside.append(mixed)
                self.num_rows += len(mixed)
            self.num_tokens += mixer.count(inputs)
        self.batch_start = len(self._rows.kept)
        self._rows.append(inputs.flatten(0, 1), in_gram.flatten())
        samples = torch.arange(first_sample, first_sample + num_samples, device=inputs.device)
        self._samples.append(samples.repeat_interleave(num_tokens))
        self._is_used.append(in_gram.flatten().clone())

    def use(self, tokens: Int[Tensor, " used"]) -> Int[Tensor, " used"]:
        """Mark tokens of the batch at hand as having a gradient; returns their rows."""
        self._is_used[-1][tokens] = True
        return tokens + self.batch_start

    def end_batch(self) -> None:
        self._token_gram = None

    def forget(self, *, releases: bool) -> None:
        self._whitened = None
        self._rows.forget()
        if releases:
            self._rows.clear()

    def token_gram(self, inputs: Float[Tensor, "samples tokens in_features"]) -> Float[Tensor, "samples tokens tokens"]:
        """Token Gram of this batch, computed by the first layer that asks."""
        if self._token_gram is None:
            self._token_gram = token_gram(inputs.float())
        return self._token_gram

    def samples_at(self, rows: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """Position in the pass of the sample that each row belongs to."""
        return torch.cat(self._samples)[rows]

    def rows_at(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows in_features"]:
        """Some of the rows in float32."""
        assert self._rows.kept.rows is not None
        return self._rows.kept.rows[rows].float()

    def gram_at(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows rows"]:
        """Inner products of some of the rows; made for all that are used by the first layer that asks."""
        is_used = torch.cat(self._is_used)
        return _selected(self._rows.gram(is_used, None), is_used, rows)

    def whitened_at(self, rows: Int[Tensor, " rows"], *, features: int, damping: float) -> Float[Tensor, "rows rows"] | None:
        """The same, whitened by A; None where A is zero."""
        is_used = torch.cat(self._is_used)
        if self._whitened is None:
            self._whitened = whitened_gram(
                self._rows.gram(is_used, damping),
                torch.cat([self._rows.is_gram_row[is_used], is_used.new_ones(len(self._rows.beside))]),
                int(is_used.sum().item()),
                features=features,
                count=self.num_tokens,
                damping=damping,
            )
        return None if self._whitened is None else _selected(self._whitened, is_used, rows)

    @property
    def input_gram(self) -> Float[Tensor, "in_features in_features"] | None:
        rows = self._rows.gram_rows()
        return rows.t() @ rows / self.num_tokens if rows is not None and self.num_tokens else None


class LayerRows(LayerStatistics):
    """The rows g_t of all tokens with a gradient, beside the rows of its input."""

    shared: InputRows

    def __init__(self, spec: LayerSpec, shared: InputRows, device: torch.device, num_rows: int) -> None:
        super().__init__(spec)
        self.shared = shared
        self._device = device
        self._rows = _Rows(num_rows)
        self._index: list[Int[Tensor, " rows"]] = []
        self._is_first: list[Bool[Tensor, " rows"]] = []
        self._gram_samples = 0
        self._products: Float[Tensor, "samples samples"] | None = None

    def add(
        self,
        inputs: Float[Tensor, "samples tokens in_features"],
        gradient: Float[Tensor, "samples tokens out_features"],
        num_first: int,
        labels: str,
        mixer: TokenMixer | None,
    ) -> None:
        self.norms[labels].append(self._norms(inputs, gradient))
        taken, mixed = gradient.new_zeros(gradient.shape[:2], dtype=torch.bool), None
        if mixer is not None:
            taken, mixed = mixer.split(gradient.float(), gradient.shape[1])
            self._gram_samples += len(gradient)
        if mixed is not None:
            self._rows.beside.append(mixed)
        if labels == "empirical":
            tokens = has_value(gradient).flatten().nonzero()[:, 0]
            is_all = len(tokens) == taken.numel()
            flat = gradient.flatten(0, 1)
            self._rows.append(flat if is_all else flat[tokens], taken.flatten()[tokens])
            self._index.append(self.shared.use(tokens))
            self._is_first.append(tokens < num_first * gradient.shape[1])
        elif bool(taken.any()):
            self._rows.beside.append(gradient[taken].float())

    def _norms(
        self, inputs: Float[Tensor, "samples tokens in_features"], gradient: Float[Tensor, "samples tokens out_features"]
    ) -> Float[Tensor, " samples"]:
        positions = few_with_value(gradient)
        if positions is None:
            return ghost_norms(self.shared.token_gram(inputs), gradient.float())
        return ghost_norms(token_gram(at_tokens(inputs, positions).float()), at_tokens(gradient, positions).float())

    def add_zero(self, num_samples: int, labels: str, *, fills_gram: bool) -> None:
        self.norms[labels].append(torch.zeros(num_samples, device=self._device))
        self._gram_samples += num_samples if fills_gram else 0

    def products(self, num_samples: int) -> GradientProducts:
        between = self._inner_products(num_samples)
        return GradientProducts(torch.arange(num_samples), between, between.sum(dim=1))

    def _inner_products(self, num_samples: int) -> Float[Tensor, "samples samples"]:
        if self._products is None:
            self._products = torch.zeros(num_samples, num_samples, dtype=torch.float64, device=self._device)
            if self._index and len(index := torch.cat(self._index)):
                outputs = self._rows.gram(None, None)[: len(index), : len(index)]
                products = (self.shared.gram_at(index) * outputs).double()
                samples = self.shared.samples_at(index)
                by_row = products.new_zeros(num_samples, len(index)).index_add_(0, samples, products)
                by_sample = products.new_zeros(num_samples, num_samples).index_add_(1, samples, by_row)
                self._products = by_sample
        return self._products

    def mean_gradient_energy(self, num_samples: int) -> float:
        return float(self._inner_products(num_samples).sum().item()) / num_samples**2

    def mean_gradients(
        self, half_sizes: tuple[int, int]
    ) -> tuple[Float[Tensor, "out_features in_features"], Float[Tensor, "out_features in_features"]]:
        means = []
        for size, belongs in zip(half_sizes, (True, False), strict=True):
            mean = torch.zeros(self.spec.out_features, self.spec.in_features, device=self._device)
            if self._rows.kept.rows is not None:
                half = torch.cat(self._is_first) == belongs
                inputs = self.shared.rows_at(torch.cat(self._index)[half])
                mean = self._rows.kept.rows[half].float().t() @ inputs / max(1, size)
            means.append(mean)
        return means[0], means[1]

    @property
    def output_gram(self) -> Float[Tensor, "out_features out_features"] | None:
        rows = self._rows.gram_rows()
        return rows.t() @ rows / self._gram_samples if rows is not None and self._gram_samples else None

    def gain_curve(
        self,
        half_sizes: tuple[int, int],
        *,
        damping: float | None,
        max_rank: int,
        num_terms: float,
        is_cross_fitted: bool = True,
        releases: bool = False,
    ) -> Float[np.ndarray, " ranks"]:
        if not self._gram_samples or not self._index or not len(index := torch.cat(self._index)):
            return np.zeros(max_rank)
        outputs = self._output_products(len(index), damping)
        self._rows.forget()
        if releases:
            self._rows.clear()
        if damping is None:
            inputs: Tensor | None = self.shared.gram_at(index).double()
        else:
            inputs = self.shared.whitened_at(index, features=self.spec.in_features, damping=damping)
        if inputs is None or outputs is None:
            return np.zeros(max_rank)
        is_first = torch.cat(self._is_first)
        return token_gain(inputs, outputs, is_first, half_sizes, max_rank, num_terms=num_terms, is_cross_fitted=is_cross_fitted)

    def _output_products(self, num_rows: int, damping: float | None) -> Float[Tensor, "rows rows"] | None:
        """Inner products of the gradients' rows in float64, whitened by B unless damping is none; none where B is zero."""
        if damping is None:
            return self._rows.gram(None, None)[:num_rows, :num_rows].double()
        flags = self._rows.is_gram_row
        return whitened_gram(
            self._rows.gram(None, damping),
            torch.cat([flags, flags.new_ones(len(self._rows.beside))]),
            num_rows,
            features=self.spec.out_features,
            count=self._gram_samples,
            damping=damping,
        )


def _selected(
    gram: Float[Tensor, "stacked stacked"], is_used: Bool[Tensor, " rows"], rows: Int[Tensor, " some"]
) -> Float[Tensor, "some some"]:
    """Entries of a Gram of the used rows at some of these."""
    positions = (is_used.cumsum(0) - 1)[rows]
    return gram if len(positions) == len(gram) else gram[positions[:, None], positions[None, :]]
