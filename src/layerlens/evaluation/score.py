"""How good a model is on samples. One definition for the arms that are tuned and for the models that are evaluated."""

from layerlens.data.inference import score

__all__ = ["score"]
