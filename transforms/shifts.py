"""Acquisition shifts with a severity from 1 to 5: for evaluation only, never for training.

Source of the constants: MedMNIST-C (Di Salvo et al., 2024), pneumonia; contrast and noise as they stand there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .intensity import contrast, noise

SHIFTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str, tuple[float, float, float, float, float]]] = {
    "contrast_down": (contrast, "factor", (0.9, 0.8, 0.7, 0.6, 0.4)),
    "contrast_up": (contrast, "factor", (1.1, 1.2, 1.3, 1.4, 1.6)),
    "gaussian_noise": (noise, "σ", (0.04, 0.05, 0.06, 0.07, 0.08)),
}
"""Kind -> function, name of its parameter, and the parameter at severity 1 to 5."""


@dataclass(frozen=True)
class Shift:
    """A shift of one kind and severity, applied to every image alike.

    Args:
        kind: a key of ``SHIFTS``.
        severity: 1 (mild) to 5 (strong).

    Shapes:
        (B, C, *spatial) float32 in [0, 1] -> the same.

    Raises:
        ValueError: unknown kind or severity.

    Example:
        >>> import torch
        >>> Shift("contrast_down", 5)(torch.tensor([[[0.2, 1.0]]]))
        tensor([[[0.4400, 0.7600]]])
    """

    kind: str
    severity: int

    def __post_init__(self) -> None:
        if self.kind not in SHIFTS:
            raise ValueError(f"shift: '{self.kind}' is unknown; choose one of {sorted(SHIFTS)}")
        if self.severity not in range(1, 6):
            raise ValueError(f"severity: {self.severity} is not one of 1, 2, 3, 4, 5")

    @property
    def name(self) -> str:
        """``<kind>_<severity>``, as evaluation calls it."""
        return f"{self.kind}_{self.severity}"

    @property
    def facts(self) -> dict[str, str | int]:
        """What the evaluation says of it: family, severity, and the parameter, such as ``factor 0.4``."""
        _, parameter, values = SHIFTS[self.kind]
        stated = f"{parameter} {values[self.severity - 1]:g}"
        return {"family": "shift", "severity": self.severity, "parameter": stated}

    def __call__(self, x: Tensor) -> Tensor:
        """Return shifted images."""
        apply, _, values = SHIFTS[self.kind]
        return apply(x, x.new_full((len(x),), values[self.severity - 1]))
