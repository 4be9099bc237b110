"""The grey-scale pipeline of DICOM as pure functions: stored values to display intensities in [0, 1].

Up to 16 bits every step is pointwise, so the steps run on one float64 table over stored values; only percentiles look
at the image. Units: *stored* as decoded; *modality* after the Modality LUT or the rescale (HU in CT); *display*
in [0, 1], 1 the brightest on a viewing station.

Source: PS3.4 N.2 (the order), PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (padding), C.8.11.3
(Presentation LUT Shape).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from .header import TERMS, number, quoted, refuse, text, value, values, warn, whole
from .luts import Floats, read_lut

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.intp]

# Modalities whose declared stored range is a display range; elsewhere it would leave the image nearly black.
DISPLAY_RANGE = frozenset({"CR", "DX", "MG", "IO", "RF", "XA", "US", "ES", "XC", "OT", "SC"})


@dataclass(frozen=True)
class Choices:
    """What a bundle may choose where the standard leaves an image ambiguous; written in the bundle's configuration.

    Attributes:
        hu_window: (centre, width) in HU of CT images, applied as LINEAR_EXACT; without it CT is refused.
        intensity: for images with neither LUT nor window: ``{"range": [lo, hi]}`` in modality units, or
            ``{"percentiles": [p, q]}`` of the image's own values outside padding (then ε means something else in every
            image).
        voi: whose range of values fills the display: ``"header"``, the file's LUT or window, where it has one;
            ``"intensity"``, the bundle's ``intensity``, whatever the file states, as for MR whose every slice states a
            window of its own. CT has ``hu_window`` in either case.
        polarity: what decides where PresentationLUTShape and PhotometricInterpretation contradict each other;
            ``"agree"`` refuses such files.
        lut_item: which item of the VOI LUT Sequence, from 0; None is the first one where there is one.
        window_item: which window, from 0; naming it goes before a LUT. None is the first, where there is no LUT.
        lut_range: ``"declared"``: a LUT spans 0 … 2ⁿ − 1, and one that fills less than half of it is refused;
            ``"data"``: 0 … its own largest entry.
        allow_for_processing: read images meant for a detector's own software, which nobody looks at.
        allow_rescale_type: read CT whose values are not stated to be HU, and localizers.
        region: which ultrasound region, from 0; None is the bounding box of all 2-D tissue regions.
        chest_wall: mirror mammograms so that the chest wall lies ``"left"`` or ``"right"``; None leaves them.
        max_pixels: refuse to decode more pixels than this.

    Raises:
        ValueError: a choice that does not exist.
    """

    hu_window: tuple[float, float] | None = None
    intensity: Mapping[str, tuple[float, float]] | None = None
    voi: Literal["header", "intensity"] = "header"
    polarity: Literal["agree", "shape", "photometric"] = "agree"
    lut_item: int | None = None
    window_item: int | None = None
    lut_range: Literal["declared", "data"] = "declared"
    allow_for_processing: bool = False
    allow_rescale_type: bool = False
    region: int | None = None
    chest_wall: Literal["left", "right"] | None = None
    max_pixels: int = 2**26

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(map(repr, known))}")
        for name in ("lut_item", "window_item", "region"):
            item = getattr(self, name)
            if item is not None and not (isinstance(item, int) and item >= 0):
                raise ValueError(f"{name}: {item!r} is no item; they count from 0")
        if self.lut_item is not None and self.window_item is not None:
            raise ValueError("lut_item: a LUT and a window are named; name one")
        if self.voi == "intensity" and (self.intensity is None or (self.lut_item, self.window_item) != (None, None)):
            raise ValueError("voi: 'intensity' needs one, and neither lut_item nor window_item beside it")
        hu = self.hu_window
        if hu is not None and not (_two_numbers(hu) and hu[1] > 0):
            raise ValueError(f"hu_window: {hu!r} is not (centre, width > 0) in HU")
        if not (isinstance(self.max_pixels, int) and self.max_pixels > 0):
            raise ValueError(f"max_pixels: {self.max_pixels!r} is not a whole number above 0")
        _check_intensity(self.intensity)


_KNOWN: Mapping[str, tuple[Any, ...]] = {
    "voi": ("header", "intensity"),
    "polarity": ("agree", "shape", "photometric"),
    "lut_range": ("declared", "data"),
    "chest_wall": (None, "left", "right"),
    "allow_for_processing": (False, True),
    "allow_rescale_type": (False, True),
}


def _two_numbers(pair: Any) -> bool:
    """Whether it is a pair of finite numbers; a bundle's YAML may say anything."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return False
    return all(isinstance(one, (int, float)) and abs(one) <= sys.float_info.max for one in pair)


def _check_intensity(intensity: Any) -> None:
    if intensity is None:
        return
    limits = {"range": (-math.inf, math.inf), "percentiles": (0, 100)}
    named = intensity.items() if isinstance(intensity, Mapping) else ()
    pairs = [(limits[name], pair) for name, pair in named if name in limits and _two_numbers(pair)]
    sound = [bounds[0] <= low < high <= bounds[1] for bounds, (low, high) in pairs]
    if len(named) != 1 or sound != [True]:
        raise ValueError(f"intensity: {intensity!r} is neither {{'range': [lo, hi]}} nor {{'percentiles': [p, q]}}")


# Windows


def linear(x: Floats, centre: float, width: float) -> Floats:
    """clip((x − (c − ½))/(w − 1) + ½), w ≥ 1; x, c and w in modality units -> [0, 1]. PS3.3 C.11.2.1.2.1.

    Example:
        >>> linear(np.array([0.0, 127.5, 255.0]), 128, 256)
        array([0. , 0.5, 1. ])
    """
    if width == 1:
        return (x > centre - 0.5).astype(np.float64)
    return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def linear_exact(x: Floats, centre: float, width: float) -> Floats:
    """clip((x − c)/w + ½), w > 0; x, c and w in modality units -> [0, 1]. PS3.3 C.11.2.1.3.2."""
    return np.clip((x - centre) / width + 0.5, 0, 1)


def sigmoid(x: Floats, centre: float, width: float) -> Floats:
    """1/(1 + exp(−4(x − c)/w)), w > 0; x, c and w in modality units -> [0, 1]. PS3.3 C.11.2.1.3.1."""
    return 0.5 * (1 + np.tanh(2 * (x - centre) / width))  # the same function, without overflow


WINDOWS: Mapping[str, Callable[[Floats, float, float], Floats]] = {
    "LINEAR": linear,
    "LINEAR_EXACT": linear_exact,
    "SIGMOID": sigmoid,
}


# The steps, in order


def padding(stored: Floats, header: Dataset) -> Mask:
    """Stored values that fill up the rectangle, both ends inclusive and in either order. PS3.3 C.7.5.1.1.2.

    Args:
        stored: values in ascending order, the first and the last those that the header declares as its ends.
        header: of the frame.

    Returns:
        Of each value whether it is padding.

    Raises:
        DicomError: an end of the padding lies outside the declared values, so that decoding has made it another.

    Example:
        >>> header = Dataset()
        >>> header.PixelPaddingValue, header.BitsAllocated, header.PixelRepresentation = 65535, 16, 1
        >>> padding(np.array([-2048.0, -1.0, 0.0, 2047.0]), header)
        array([False,  True, False, False])
    """
    if value(header, "PixelPaddingValue") is None:
        return np.zeros(stored.shape, bool)
    one = whole(header, "PixelPaddingValue")
    low, high = sorted(_as_stored(end, header) for end in (one, whole(header, "PixelPaddingRangeLimit", one)))
    if low < stored[0] or high > stored[-1]:
        cure = f"or its limit lies outside the declared {stored[0]:g}..{stored[-1]:g}; correct the header"
        raise refuse(header, "PixelPaddingValue", cure)
    mask: Mask = (stored >= low) & (stored <= high)
    return mask


def _as_stored(end: int, header: Dataset) -> int:
    """A padding value as a pixel holds it. It may say US of signed pixels: a real file says 63536 and holds −2000."""
    signed = number(header, "PixelRepresentation")
    for bits in (whole(header, "BitsAllocated"), 16):  # as the pixel's bits, or extended to the element's
        half = 1 << (bits - 1)
        if signed and half <= end < 2 * half:
            return end - 2 * half
        if not signed and -half <= end < 0:
            return end + 2 * half
    return end


@dataclass(frozen=True)
class Modality:
    """Values in modality units, the extremes that the header declares for them, and how they were made. C.11.1."""

    x: Floats
    low: float
    high: float
    name: str


def modality(stored: Floats, header: Dataset) -> Modality:
    """Modality LUT, else rescale, else identity (PS3.3 C.11.1).

    Args:
        stored: values in ascending order, the first and the last those that the header declares as its ends.
        header: of the frame.

    Returns:
        In modality units, HU in CT: finite, of any range.

    Raises:
        DicomError: the transform makes all values one, or is not finite.

    Example:
        >>> header = Dataset()
        >>> header.RescaleSlope, header.RescaleIntercept = 1, -1024
        >>> units = modality(np.array([0.0, 1064.0, 4095.0]), header)
        >>> units.x, units.name
        (array([-1024.,    40.,  3071.]), '1 x + -1024')
    """
    relationship = text(header, "PixelIntensityRelationship")
    if text(header, "Modality") in ("XA", "RF") and relationship in ("LOG", "DISP"):
        # there it leads back to X-ray intensity and is not for display (PS3.3 C.8.7.1.1.2)
        return Modality(stored, stored[0], stored[-1], f"not applied ({relationship})")
    if values(header, "ModalityLUTSequence"):
        if value(header, "RescaleSlope") is not None:
            cure = "stands beside a rescale, which is not allowed; the LUT is applied"
            warn(header, "ModalityLUTSequence", cure)
        lut = read_lut(header, "ModalityLUTSequence", 0, signed=stored[0] < 0)
        return Modality(lut(stored), lut.entries.min(), lut.entries.max(), f"LUT of {len(lut.entries)} entries")
    slope, intercept = number(header, "RescaleSlope", 1), number(header, "RescaleIntercept", 0)
    with np.errstate(over="ignore"):
        x = stored * slope + intercept
    if x[0] == x[-1] or not np.isfinite(x).all():
        raise refuse(header, "RescaleSlope", f"{slope:g} makes all values one or infinite; correct the header")
    identity = slope == 1 and intercept == 0
    return Modality(x, min(x[0], x[-1]), max(x[0], x[-1]), "identity" if identity else f"{slope:g} x + {intercept:g}")


def displayed(units: Modality, header: Dataset, choices: Choices, counts: Callable[[], Counts]) -> tuple[Floats, str]:
    """The VOI step: modality units -> [0, 1], and how.

    In this order: CT by the bundle's HU window; the bundle's intensity where it goes first (``voi``); a LUT; a window;
    the bundle's intensity; the declared range.

    Args:
        units: what :func:`modality` gave.
        header: of the frame.
        choices: of the bundle.
        counts: how often the image holds each of these values, outside padding; called for percentiles only.

    Returns:
        In [0, 1], before polarity; and the LUT, window or range, in modality units, and whose it was, for the metadata.

    Raises:
        DicomError: nothing says how to display these values.

    Source: PS3.3 C.11.2 (VOI LUT Module).

    Example:
        >>> header, units = Dataset(), Modality(np.array([0.0, 51.0, 255.0]), 0, 255, "identity")
        >>> header.Modality, header.PixelRepresentation = "DX", 0
        >>> displayed(units, header, Choices(), counts=lambda: np.ones(3, int))
        (array([0. , 0.2, 1. ]), 'declared 0..255')
    """
    if text(header, "Modality") == "CT":
        return _hounsfield(units.x, header, choices)
    if choices.intensity is not None and choices.voi == "intensity":
        return _by_intensity(units.x, header, choices.intensity, counts)
    luts, windows = values(header, "VOILUTSequence"), values(header, "WindowCenter") or values(header, "WindowWidth")
    if choices.lut_item is not None or (luts and choices.window_item is None):
        return _by_lut(units, header, choices)
    if windows or choices.window_item is not None:
        return _by_window(units.x, header, choices.window_item or 0)
    if choices.intensity is not None:
        return _by_intensity(units.x, header, choices.intensity, counts)
    return _declared(units, header)


def check_hounsfield(header: Dataset, choices: Choices) -> None:
    """Refuse CT whose values are not known to be in HU (PS3.3 C.11.1.1.2), unless the bundle allows it.

    A rescale of no stated type is in HU (C.8.2.1); a Modality LUT, which is applied first, must state it.
    """
    if choices.allow_rescale_type:
        return
    kinds = {str(one) for field in ("ImageType", "FrameType") for one in values(header, field)}
    luts, field = values(header, "ModalityLUTSequence"), "RescaleType"
    unit = text(header, field) or "HU"
    if luts:
        field = "ModalityLUTType"
        unit = text(luts[0], field)
    if unit != "HU" or "LOCALIZER" in kinds:
        stated = repr(unit) if unit in TERMS else "a unit of another name"
        what = "localizer" if "LOCALIZER" in kinds else f"values in {stated}"
        raise refuse(header, field, f"{what}, not known to be HU; give a slice in HU, or set allow_rescale_type")


def _hounsfield(x: Floats, header: Dataset, choices: Choices) -> tuple[Floats, str]:
    """By the bundle's window, LINEAR_EXACT (C.11.2.1.3.2): x in HU -> [0, 1], and that window."""
    check_hounsfield(header, choices)
    if choices.hu_window is None:
        raise refuse(header, "Modality", "CT needs hu_window among the bundle's choices; set it, or give a film")
    centre, width = choices.hu_window
    return linear_exact(x, centre, width), f"{centre:g}/{width:g} HU of the bundle"


def _by_lut(units: Modality, header: Dataset, choices: Choices) -> tuple[Floats, str]:
    """By an item of the VOI LUT Sequence: modality units -> [0, 1], and which. PS3.3 C.11.2.1.1."""
    item = choices.lut_item or 0
    lut = read_lut(header, "VOILUTSequence", item, signed=units.low < 0)
    full, largest = 2**lut.bits - 1, lut.entries.max()
    if choices.lut_range == "data":
        full = largest
    elif largest < full / 2:
        cure = f"fills less than half of its {lut.bits} bits; correct the header or set lut_range to 'data'"
        raise refuse(header, "VOILUTSequence", cure)
    if full <= 0:
        raise refuse(header, "LUTData", "is all 0; correct the header")
    return lut(units.x) / full, f"LUT {item} of {len(lut.entries)} entries"


def _by_window(x: Floats, header: Dataset, item: int) -> tuple[Floats, str]:
    """By a window of the header: modality units -> [0, 1], and which. PS3.3 C.11.2.1.2, C.11.2.1.3."""
    for field in ("WindowCenter", "WindowWidth"):
        if item and item >= len(values(header, field)):
            raise refuse(header, field, f"has no item {item}; name another window_item")
    centre, width = number(header, "WindowCenter", item=item), number(header, "WindowWidth", item=item)
    name = text(header, "VOILUTFunction") or "LINEAR"
    if name not in WINDOWS:
        raise refuse(header, "VOILUTFunction", f"{quoted(name)} is not one of {', '.join(WINDOWS)}; correct the header")
    if width <= 0 or (name == "LINEAR" and width < 1):
        raise refuse(header, "WindowWidth", f"{width:g} is too small for {name} (C.11.2.1.2); correct the header")
    with np.errstate(over="ignore"):  # a tiny width gives infinities, which the clip takes
        return WINDOWS[name](x, centre, width), f"{centre:g}/{width:g} {name}"


def _by_intensity(
    x: Floats, header: Dataset, intensity: Mapping[str, tuple[float, float]], counts: Callable[[], Counts]
) -> tuple[Floats, str]:
    """By the range or percentiles of the bundle: modality units -> [0, 1], and which. No section: ours."""
    ((name, (low, high)),) = intensity.items()
    what = f"{name} {low:g}..{high:g} of the bundle"
    if name == "percentiles":
        low, high = percentiles(x, counts(), (low, high))
        if not low < high:
            raise refuse(header, "PixelData", "the percentiles of its values are one; leave the image out")
    return np.clip((x - low) / (high - low), 0, 1), what


def percentiles(x: Floats, counts: Counts, percents: tuple[float, float]) -> Floats:
    """Percentiles of values that occur so often, linear between two of them; all are one where nothing occurs.

    In units of x. As ``np.percentile`` of the values one by one, for which a film would need several times its own
    memory; no section of the standard knows percentiles.

    Example:
        >>> percentiles(np.array([30.0, 10.0, 20.0]), np.array([0, 3, 2]), (0, 75))
        array([10., 20.])
    """
    order = np.argsort(x)
    last = np.cumsum(counts[order]) - 1  # rank of the last pixel of each value
    ranks = np.array(percents) / 100 * max(last[-1], 0)
    low, high = (x[order][np.searchsorted(last[:-1], end(ranks))] for end in (np.floor, np.ceil))
    between: Floats = low + (high - low) * (ranks % 1)
    return between


def _declared(units: Modality, header: Dataset) -> tuple[Floats, str]:
    """(x − lo)/(hi − lo) over the declared range: never the image's own extremes, on which ε would depend.

    Modality units -> [0, 1], and the range. PS3.3 C.7.6.3 (BitsStored), C.11.1; as a display range: ours.
    """
    if number(header, "PixelRepresentation") or text(header, "Modality") not in DISPLAY_RANGE:
        cure = "missing, and the declared range of signed data or of this modality is no display range; set intensity"
        raise refuse(header, "WindowCenter", cure)
    if units.low == units.high:
        raise refuse(header, "ModalityLUTSequence", "makes all values one; correct the header")
    return (units.x - units.low) / (units.high - units.low), f"declared {units.low:g}..{units.high:g}"


def polarity(header: Dataset, choices: Choices) -> tuple[bool, str]:
    """Whether 1 − y is due, and why. INVERSE *restates* MONOCHROME1, it is no second inversion (PS3.3 C.8.11.3).

    Args:
        header: of a grey image.
        choices: of the bundle.

    Raises:
        DicomError: another shape, or one that contradicts the photometric interpretation where no choice is made.

    Example:
        >>> header = Dataset()
        >>> header.PhotometricInterpretation, header.PresentationLUTShape = "MONOCHROME1", "INVERSE"
        >>> polarity(header, Choices())
        (True, 'inverted (PresentationLUTShape INVERSE)')
    """
    photometric, shape = text(header, "PhotometricInterpretation"), text(header, "PresentationLUTShape")
    if shape not in ("", "IDENTITY", "INVERSE"):
        raise refuse(header, "PresentationLUTShape", f"{quoted(shape)} is not IDENTITY or INVERSE; correct the header")
    by_photometric = photometric == "MONOCHROME1"
    by_shape = shape == "INVERSE" if shape else by_photometric
    if by_shape != by_photometric and choices.polarity == "agree":
        cure = f"{shape} contradicts PhotometricInterpretation {photometric}; set polarity to 'shape' or 'photometric'"
        raise refuse(header, "PresentationLUTShape", cure)
    turned, reasons = by_shape, [f"PresentationLUTShape {shape}" if shape else photometric, photometric]
    if choices.polarity == "photometric":
        turned, reasons = by_photometric, reasons[::-1]
    against = f", against {reasons[1]}" if by_shape != by_photometric else ""
    return turned, f"{'inverted' if turned else 'as stored'} ({reasons[0]}{against})"
