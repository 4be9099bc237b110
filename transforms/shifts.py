"""Acquisition shifts with a severity from 1 to 5: for evaluation only, never for training.

Each kind is a function of images and a parameter, with the parameter at each severity and where that is from. Kinds
belong to groups, by which an augmentation says what it has seen (its ``groups``). ``docs/shifts.md`` is made from the
table.

Source of the constants: MedMNIST-C (Di Salvo, Doerrich and Ledig, arXiv 2406.17536; code at 8acfd27), where it has the
kind: pneumoniamnist for films, breastmnist for ultrasound, both made at 224 x 224. The others are this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from . import degradation, intensity, noises, placing
from .augmix import brighten

Value = float | tuple[float, ...]
PNEUMONIA, BREAST, OURS = "MedMNIST-C, pneumonia", "MedMNIST-C, breast ultrasound", "constants: ours"


@dataclass(frozen=True)
class Kind:
    """One kind of shift.

    Attributes:
        group: what it is like; the unit in which augmentations say what they have seen.
        apply: images (B, C, *spatial) and the parameter's numbers -> images.
        formula: what it does, in few words.
        parameter: name of the parameter, with its unit where it has one.
        values: the parameter at severity 1 to 5; pairs where it is two numbers.
        source: of the values.
        flat: whether it has a meaning in two dimensions only.
    """

    group: str
    apply: Callable[..., Tensor]
    formula: str
    parameter: str
    values: tuple[Value, Value, Value, Value, Value]
    source: str
    flat: bool = False

    def stated(self, severity: int) -> str:
        """The parameter at a severity.

        Example:
            >>> SHIFTS["ultrasound_motion"].stated(2)
            'radius, σ in pixels of 224: 9, 7'
            >>> SHIFTS["contrast_down"].stated(5)
            'factor 0.4'
        """
        value = self.values[severity - 1]
        return f"{self.parameter}: {text_of(value)}" if isinstance(value, tuple) else f"{self.parameter} {value:g}"


def text_of(value: Value) -> str:
    """A parameter's number, or its numbers with commas between them."""
    return ", ".join(f"{number:g}" for number in (value if isinstance(value, tuple) else (value,)))


def _each(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """A function with a parameter for each image, given the same one for all."""
    return lambda x, value: function(x, x.new_full((len(x),), value))


def _widened(x: Tensor, width: float) -> Tensor:
    return intensity.window(x, x.new_full((len(x),), 0.5), x.new_full((len(x),), width))


def _levelled(x: Tensor, offset: float) -> Tensor:
    return intensity.window(x, x.new_full((len(x),), 0.5 + offset), x.new_ones(len(x)))


_contrast, _gamma, _brighten = _each(intensity.contrast), _each(intensity.gamma), _each(brighten)
_up, _down = (1.1, 1.2, 1.3, 1.4, 1.6), (0.9, 0.8, 0.7, 0.6, 0.4)
_about_mean = "μ + f(x − μ), μ the mean of what is not black"
_window = "(x − ½)/w + ½: a window of width w where it is 1"
_level = "x − s: a window whose level is s too high"
_doses = (0.5, 0.25, 0.125, 0.0625, 0.03125)

SHIFTS: Mapping[str, Kind] = {
    "contrast_down": Kind("contrast", _contrast, _about_mean, "factor", _down, PNEUMONIA),
    "contrast_up": Kind("contrast", _contrast, _about_mean, "factor", _up, PNEUMONIA),
    "gamma_down": Kind("gamma", _gamma, "x to the power γ, brighter", "γ", _down, PNEUMONIA),
    "gamma_up": Kind("gamma", _gamma, "x to the power γ, darker", "γ", _up, PNEUMONIA),
    "brightness_down": Kind("brightness", _brighten, "f·x", "factor", (0.9, 0.8, 0.7, 0.6, 0.5), PNEUMONIA),
    "brightness_up": Kind("brightness", _brighten, "f·x", "factor", (1.1, 1.2, 1.3, 1.4, 1.5), PNEUMONIA),
    "gaussian_noise": Kind(
        "noise", noises.gaussian, "x + σ·n, n normal for each pixel", "σ", (0.04, 0.05, 0.06, 0.07, 0.08), PNEUMONIA
    ),
    "speckle_noise": Kind(
        "noise", noises.speckle, "x + σ·n·x, n normal for each pixel", "σ", (0.05, 0.07, 0.1, 0.15, 0.2), PNEUMONIA
    ),
    "impulse_noise": Kind(
        "noise",
        noises.impulse,
        "a share of the pixels black or white, half of them each",
        "share",
        (0.005, 0.01, 0.013, 0.017, 0.02),
        PNEUMONIA,
    ),
    "shot_noise": Kind(
        "noise",
        noises.shot,
        "counts of a Poisson law with mean N·x, over N",
        "photons N at white",
        (300, 200, 150, 100, 80),
        PNEUMONIA,
    ),
    "low_dose": Kind(
        "noise",
        noises.low_dose,
        "a film at a share of its dose: x + 0.005·e^(3x/2)·√(1/dose − 1)·n, most where it is bright; black stays",
        "dose",
        _doses,
        OURS,
        flat=True,
    ),
    "ct_low_dose": Kind(
        "noise",
        noises.ct_low_dose,
        "a CT slice at a share of its dose: x + 0.01·√(1/dose − 1)·n, n with the grain of back-projection; black stays",
        "dose",
        _doses,
        OURS,
    ),
    "blur": Kind(
        "blur",
        degradation.blur,
        "Gaussian blur, σ = 0.15·kernel + 0.35 pixels",
        "kernel in pixels of 224",
        (3, 5, 7, 9, 11),
        PNEUMONIA,
    ),
    "resolution": Kind(
        "resolution",
        degradation.resolution,
        "rows and columns averaged to a share of their number, then repeated, on a grid that begins anywhere",
        "factor",
        (0.8, 0.7, 0.6, 0.5, 0.4),
        PNEUMONIA,
    ),
    "jpeg": Kind(
        "compression", degradation.jpeg, "8-bit grey JPEG", "quality", (50, 30, 15, 10, 7), PNEUMONIA, flat=True
    ),
    "ultrasound_speckle": Kind(
        "noise", noises.speckle, "x + σ·n·x, n normal for each pixel", "σ", (0.1, 0.15, 0.2, 0.25, 0.3), BREAST
    ),
    "ultrasound_motion": Kind(
        "blur",
        degradation.motion,
        "smeared to one side within 45° of the rows, weights half a Gaussian",
        "radius, σ in pixels of 224",
        ((5, 5), (9, 7), (9, 10), (13, 10), (17, 12)),
        BREAST,
        flat=True,
    ),
    "ultrasound_brightness_down": Kind("brightness", _brighten, "f·x", "factor", (0.55, 0.5, 0.45, 0.4, 0.3), BREAST),
    "ultrasound_brightness_up": Kind("brightness", _brighten, "f·x", "factor", (1.4, 1.5, 1.6, 1.8, 2.0), BREAST),
    "window_narrow": Kind("window", _widened, _window, "w", (0.9, 0.8, 0.7, 0.6, 0.5), OURS),
    "window_wide": Kind("window", _widened, _window, "w", (1.1, 1.2, 1.4, 1.7, 2.0), OURS),
    "level_low": Kind("window", _levelled, _level, "s", (-0.05, -0.1, -0.15, -0.2, -0.25), OURS),
    "level_high": Kind("window", _levelled, _level, "s", (0.05, 0.1, 0.15, 0.2, 0.25), OURS),
    "bias_field": Kind(
        "field",
        placing.bias_field,
        "x·e^(s·b), b a smooth random field between −1 and 1",
        "strength s",
        (0.15, 0.3, 0.45, 0.6, 0.75),
        OURS,
    ),
    "collimation": Kind(
        "border",
        placing.collimation,
        "black beyond a rectangle; each edge covers ½ to 3/2 of the share",
        "share of a side",
        (0.02, 0.04, 0.06, 0.08, 0.1),
        OURS,
        flat=True,
    ),
    "gibbs_ringing": Kind(
        "ringing",
        degradation.ringing,
        "of the frequencies of rows and columns only the lowest share",
        "share",
        (0.6, 0.5, 0.4, 0.3, 0.2),
        OURS,
    ),
    "rotation": Kind("geometry", placing.rotate, "about the centre, either way", "degrees", (3, 6, 9, 12, 15), OURS),
    "translation": Kind(
        "geometry", placing.translate, "in any direction", "share of a side", (0.02, 0.04, 0.06, 0.08, 0.1), OURS
    ),
    "scale": Kind(
        "geometry", placing.rescale, "about the centre, up or down", "factor", (1.05, 1.1, 1.15, 1.2, 1.25), OURS
    ),
}
"""Name of a kind -> what it is."""

GROUPS = frozenset(kind.group for kind in SHIFTS.values())
"""All groups."""


@dataclass(frozen=True)
class Shift:
    """A shift of one kind and severity, applied to every image alike.

    Draws come from torch's generator on the device of the images, for each image by its place in the batch; they do not
    depend on the severity, but for shot noise.

    Args:
        kind: a key of ``SHIFTS``.
        severity: 1 (mild) to 5 (strong).

    Shapes:
        (B, C, *spatial) float32 in [0, 1] -> the same.

    Raises:
        ValueError: unknown kind or severity; by the call, volumes where the kind is one of flat images.

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
        """What the evaluation says of it: family, group, severity, parameter (``factor 0.4``); flat, if it is."""
        kind = SHIFTS[self.kind]
        stated, flat = kind.stated(self.severity), {"flat": True} if kind.flat else {}
        return {"family": "shift", "group": kind.group, "severity": self.severity, "parameter": stated, **flat}

    def __call__(self, x: Tensor) -> Tensor:
        """Return shifted images."""
        kind = SHIFTS[self.kind]
        if kind.flat and x.ndim != 4:
            raise ValueError(
                f"{self.name}: images: {x.ndim - 2} spatial axes, but it has a meaning in 2 only; "
                "leave it out for volumes"
            )
        value = kind.values[self.severity - 1]
        return kind.apply(x, *(value if isinstance(value, tuple) else (value,)))


def grid(kinds: Sequence[str] = tuple(SHIFTS), severities: Sequence[int] = (1, 2, 3, 4, 5)) -> list[Shift]:
    """Every kind at every severity, in order; raises as :class:`Shift`.

    Example:
        >>> [shift.name for shift in grid(["blur", "jpeg"], [1, 5])]
        ['blur_1', 'blur_5', 'jpeg_1', 'jpeg_5']
    """
    return [Shift(kind, severity) for kind in kinds for severity in severities]
