"""Exact match and F1 of answers, as SQuAD's official evaluation defines them (Rajpurkar et al. 2016, arXiv 1606.05250)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower the case, then remove punctuation, articles and extra white space, in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals one of the answers once normalised, else 0.0."""
    return max(float(normalise_answer(predicted) == normalise_answer(answer)) for answer in answers)


def answer_f1(predicted: str, answers: Sequence[str]) -> float:
    """Best F1 over the words shared with one of the answers, counted with repetition."""
    return max(_f1_of_words(normalise_answer(predicted).split(), normalise_answer(answer).split()) for answer in answers)


def _f1_of_words(predicted: list[str], actual: list[str]) -> float:
    if not predicted or not actual:
        return float(predicted == actual)
    shared = sum((Counter(predicted) & Counter(actual)).values())
    return 2 * shared / (len(predicted) + len(actual))
