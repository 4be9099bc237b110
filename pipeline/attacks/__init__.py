"""Attacks: views that look at the model. Each is one frozen dataclass, called as ``attack(model, x, y) -> x'``."""

from __future__ import annotations

from .frozen import frozen
from .pgd import FGSM, PGD
from .random import RandomSearch

__all__ = ["FGSM", "PGD", "RandomSearch", "frozen"]
