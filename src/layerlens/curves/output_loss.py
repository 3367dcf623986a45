"""What an error of a matrix costs: ½ tr(B E A Eᵀ) nats, the second-order loss with Kronecker-factored curvature A ⊗ B.

Units: A is the mean of x xᵀ over tokens; B the mean over tokens of g gᵀ, g the gradient of one token's loss with a
label drawn from the model, so that A ⊗ B approximates the curvature of the mean loss of a prediction.

Source: Martens, Grosse (2015), arXiv 1503.05671, eq. 1.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from layerlens.linalg.quadratic_form import trace_form


def quadratic_loss(
    error: Float[Tensor, "out_features in_features"],
    input_gram: Float[Tensor, "in_features in_features"],
    output_gram: Float[Tensor, "out_features out_features"] | Float[Tensor, " out_features"] | None = None,
) -> float:
    """½ tr(B E A Eᵀ), in nats for each prediction.

    Args:
        error: E = Ŵ − W.
        input_gram: A.
        output_gram: B, its diagonal, or the identity if None.

    Returns:
        The loss; products in the error's type, sums in float64. Nothing larger than the matrix is made.
    """
    return 0.5 * trace_form(error, input_gram, output_gram)
