"""From a DICOM file to intensities in [0, 1]: one function for training, inference and the deployed application.

Readers disagree about polarity and most apply no window; here the grey-scale pipeline of PS3.4 N.2 is written out once.
Up to 16 bits every step is pointwise, so the steps run on one float64 table over all stored values, cast once.

First form: single-frame monochrome projections and ultrasound. What is not read yet (CT, colour, several frames,
lookup tables in sequences, functional groups) is refused by name, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset, config, uid
from pydicom.multival import MultiValue
from pydicom.pixels import get_decoder, pixel_array  # type: ignore[attr-defined]  # public, but not in its __all__
from pydicom.sequence import Sequence

Facts = dict[str, str | int | bool]
Floats = npt.NDArray[np.float64]

MAX_PIXELS = 2**26  # 8192 x 8192: twice the largest mammogram; a header that asks for more is damaged or hostile
REQUIRED = ("PixelData", "Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel")
BITS = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
LATER = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ModalityLUTSequence", "VOILUTSequence")
# Modalities whose declared stored range is a display range; elsewhere it would leave the image nearly black.
DISPLAY_RANGE = frozenset({"CR", "DX", "MG", "IO", "RF", "XA", "US", "ES", "XC", "OT", "SC"})
# Facts copied as they stand, from the first of these fields that is present.
COPIED = {
    "modality": ("Modality",),
    "manufacturer": ("Manufacturer",),
    "projection": ("ViewPosition",),
    "laterality": ("ImageLaterality", "Laterality"),
    "body_part": ("BodyPartExamined",),
    "photometric": ("PhotometricInterpretation",),
    "sex": ("PatientSex",),
    "burned_in": ("BurnedInAnnotation",),
}
# Every reader returns these keys with these types, so that films of several formats collate in one batch.
NO_FACTS: Mapping[str, str | int | bool] = dict.fromkeys((*COPIED, "age_group", "window"), "") | {
    "inverted": False,
    "padding": False,
    "rows": 0,
    "columns": 0,
}


class DicomError(ValueError):
    """A refused DICOM file, as one line ``<basename>: <Field>: <what is wrong; what to do>``."""


@dataclass(frozen=True)
class Choices:
    """What a bundle may choose where the standard leaves a film ambiguous.

    Attributes:
        polarity: what decides where PresentationLUTShape and PhotometricInterpretation contradict each other;
            "agree" refuses such files.
        allow_for_processing: read images meant for a detector's own software, which nobody looks at.
    """

    polarity: Literal["agree", "shape", "photometric"] = "agree"
    allow_for_processing: bool = False

    def __post_init__(self) -> None:
        if self.polarity not in ("agree", "shape", "photometric"):
            raise ValueError(f"polarity must be 'agree', 'shape' or 'photometric', not {self.polarity!r}")


def one_line(path: str | Path, field: str, cure: str) -> str:
    """``<basename>: <field>: <cure>`` on one line, without the directory.

    Example:
        >>> one_line("/home/anna/a.dcm", "HighBit", "is 15, not 11")
        'a.dcm: HighBit: is 15, not 11'
    """
    return " ".join(f"{Path(path).name}: {field}: {cure}".split())


def looks_like_dicom(path: str | Path) -> bool:
    """Whether the file has the preamble of PS3.10 section 7.1 or, without it, the fields of an image."""
    try:
        if pydicom.misc.is_dicom(path):
            return True
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except Exception:  # pydicom raises nearly anything on bytes that are not DICOM
        return False
    return {"Rows", "Columns", "BitsAllocated"} <= set(header.dir())


def read_stored(path: str | Path) -> tuple[npt.NDArray[np.integer], Dataset]:
    """Decode the stored values of a single-frame monochrome image; no policy is applied.

    Returns:
        Stored values, (rows, columns), 8- or 16-bit integers, no unit; and the header.

    Raises:
        DicomError: no such image, a size that the file cannot hold, or no decoder for its transfer syntax.

    Source: PS3.3 C.7.6.3 (Image Pixel Module), PS3.5 section 8.1.1.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> stored, header = read_stored(get_testdata_file("MR_small.dcm"))
        >>> stored.shape, stored.dtype.name, header.Modality
        ((64, 64), 'int16', 'MR')
    """
    try:
        header = pydicom.dcmread(path, force=True)  # force: old films lack the preamble; the fields are checked below
    except OSError as error:
        raise DicomError(one_line(path, "file", f"cannot be opened ({type(error).__name__}); check the path")) from None
    except Exception as error:  # damaged headers raise struct.error, TypeError, MemoryError, ...
        cure = f"the header cannot be read ({type(error).__name__}); the file is damaged or not DICOM, get a new copy"
        raise DicomError(one_line(path, "file", cure)) from None
    _check_kind(header)
    _check_bits(header)
    _check_size(header)
    return _decode(header), header


def to_intensity(
    stored: npt.NDArray[np.integer], header: Dataset, choices: Choices | None = None
) -> tuple[npt.NDArray[np.float32], Facts]:
    """Take stored values through rescale, window, polarity and padding, in this order.

    Args:
        stored: (rows, columns) integers of at most 16 bits, as decoded.
        header: of the same image.
        choices: what the bundle decides; by default everything ambiguous is refused.

    Returns:
        (rows, columns) float32 in [0, 1], 1 the brightest on a viewing station; and the facts that may leave the
        reader (keys of ``NO_FACTS``): no ids, names or dates.

    Raises:
        DicomError: naming the field that is missing, contradictory or not supported.

    Source: PS3.4 N.2 (pipeline), PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (padding),
    C.8.11.3 (Presentation LUT Shape).

    Example:
        >>> header = Dataset()
        >>> header.Modality, header.PhotometricInterpretation = "DX", "MONOCHROME1"
        >>> header.BitsStored, header.PixelRepresentation = 8, 0
        >>> to_intensity(np.array([[0, 255]]), header)[0]
        array([[1., 0.]], dtype=float32)
    """
    choices = choices or Choices()
    _check_policy(header, choices)
    low, high = _stored_range(header)
    if stored.min() < low or stored.max() > high:
        raise _refuse(header, "BitsStored", f"pixels lie outside the declared {low}..{high}; correct the header")
    values = np.arange(low, high + 1, dtype=np.float64)
    table, window = _displayed(_rescaled(values, header), header)
    inverted = _inverted(header, choices)
    if inverted:
        table = 1 - table
    padding = _padding(values, header)
    table[padding] = 0
    index = stored.astype(np.int32) - low
    facts = _facts(header) | {"rows": stored.shape[0], "columns": stored.shape[1]}
    facts |= {"window": window, "inverted": inverted, "padding": bool(padding[index].any())}
    return table.astype(np.float32)[index], facts


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


def _rescaled(values: Floats, header: Dataset) -> Floats:
    """Modality units; absent rescale is the identity (PS3.3 C.11.1)."""
    relationship = _text(header, "PixelIntensityRelationship")
    if _text(header, "Modality") in ("XA", "RF") and relationship in ("LOG", "DISP"):
        return values  # there the rescale leads back to X-ray intensity and is not for display (PS3.3 C.8.7.1.1.2)
    slope, intercept = _number(header, "RescaleSlope", 1), _number(header, "RescaleIntercept", 0)
    with np.errstate(over="ignore"):
        x = values * slope + intercept
    if x[0] == x[-1] or not np.isfinite(x).all():
        raise _refuse(header, "RescaleSlope", f"{slope:g} makes all values one or infinite; correct the header")
    return x


def _displayed(x: Floats, header: Dataset) -> tuple[Floats, str]:
    """The first window of the header, else the declared range; and its name."""
    if _value(header, "WindowCenter") is None and _value(header, "WindowWidth") is None:
        return _declared(x, header)
    centre, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    name = _text(header, "VOILUTFunction") or "LINEAR"
    if name not in WINDOWS:
        raise _refuse(header, "VOILUTFunction", f"{name[:16]!r} is not one of {', '.join(WINDOWS)}; correct the header")
    if width <= 0 or (name == "LINEAR" and width < 1):
        raise _refuse(header, "WindowWidth", f"{width:g} is too small for {name} (C.11.2.1.2); correct the header")
    with np.errstate(over="ignore"):  # a tiny width gives infinities, which the clip takes
        return WINDOWS[name](x, centre, width), f"{centre:g}/{width:g} {name}"


def _declared(x: Floats, header: Dataset) -> tuple[Floats, str]:
    """(x − lo)/(hi − lo) over the declared range: never the image's own extremes, on which ε would depend."""
    if _number(header, "PixelRepresentation") or _text(header, "Modality") not in DISPLAY_RANGE:
        cure = "missing, and the declared range of signed data or of this modality is no display range; add a window"
        raise _refuse(header, "WindowCenter", cure)
    low, high = sorted((float(x[0]), float(x[-1])))
    return (x - low) / (high - low), f"declared {low:g}..{high:g}"


def _inverted(header: Dataset, choices: Choices) -> bool:
    """Whether 1 − y is due. INVERSE *restates* MONOCHROME1, it is no second inversion (PS3.3 C.8.11.3)."""
    photometric = _text(header, "PhotometricInterpretation")
    shape = _text(header, "PresentationLUTShape")
    if shape not in ("", "IDENTITY", "INVERSE"):
        raise _refuse(header, "PresentationLUTShape", f"{shape[:16]!r} is not IDENTITY or INVERSE; correct the header")
    by_photometric = photometric == "MONOCHROME1"
    by_shape = shape == "INVERSE" if shape else by_photometric
    if by_shape != by_photometric and choices.polarity == "agree":
        cure = f"{shape} contradicts PhotometricInterpretation {photometric}; set polarity to 'shape' or 'photometric'"
        raise _refuse(header, "PresentationLUTShape", cure)
    return by_photometric if choices.polarity == "photometric" else by_shape


def _padding(values: Floats, header: Dataset) -> npt.NDArray[np.bool_]:
    """Stored values that fill up the rectangle, both ends inclusive and in either order (PS3.3 C.7.5.1.1.2)."""
    if _value(header, "PixelPaddingValue") is None:
        return np.zeros(values.shape, bool)
    value = _number(header, "PixelPaddingValue")
    limit = _number(header, "PixelPaddingRangeLimit", value)
    # The element may say US where the pixels are signed: a real file says 63536 and holds −2000.
    kind = np.int16 if _number(header, "PixelRepresentation") else np.uint16
    low, high = np.sort(np.array([value, limit]).astype(np.int64).astype(kind))
    mask: npt.NDArray[np.bool_] = (values >= low) & (values <= high)
    return mask


def _facts(header: Dataset) -> Facts:
    """What may leave the reader, but for what the pipeline did."""
    copied = {fact: next(filter(None, (_text(header, f) for f in fields)), "") for fact, fields in COPIED.items()}
    return dict(NO_FACTS) | copied | {"age_group": age_group(_text(header, "PatientAge"))}


def age_group(age: str) -> str:
    """Decade of an Age String (PS3.5 section 6.2, VR AS); empty where it is not one.

    Example:
        >>> age_group("045Y"), age_group("018M"), age_group("101Y"), age_group("62")
        ('40-49', '0-9', '90+', '')
    """
    if not re.fullmatch(r"\d{3}[DWMY]", age):
        return ""
    decade = int(age[:3]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[age[3]] // 10 * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"


def _check_kind(header: Dataset) -> None:
    """One frame of grey values, described in the root of the header."""
    for field in REQUIRED + BITS:
        if _value(header, field) is None:
            raise _refuse(header, field, "missing; give a DICOM image, not a report, plan or directory")
    photometric = _text(header, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise _refuse(header, "PhotometricInterpretation", f"{photometric[:16]!r} is not read yet; convert to grey")
    if _number(header, "NumberOfFrames", 1) > 1:
        raise _refuse(header, "NumberOfFrames", "several frames are not read yet; give one frame a file")


def _check_bits(header: Dataset) -> None:
    allocated, stored, high_bit, representation = (int(_number(header, field)) for field in BITS)
    if allocated not in (8, 16):
        raise _refuse(header, "BitsAllocated", f"{allocated} is not read; give an image of 8 or 16 bits")
    if not 1 <= stored <= allocated:
        raise _refuse(header, "BitsStored", f"{stored} does not lie in 1..{allocated}; correct the header")
    if high_bit != stored - 1:  # decoders ignore it, and a left-aligned film comes out 16 times too bright
        raise _refuse(header, "HighBit", f"{high_bit} is not BitsStored - 1 = {stored - 1}; align the pixels right")
    if representation not in (0, 1):
        raise _refuse(header, "PixelRepresentation", f"{representation} is neither 0 nor 1; correct the header")


def _check_size(header: Dataset) -> None:
    """Before decoding: a header can ask for more memory than there is."""
    rows, columns = int(_number(header, "Rows")), int(_number(header, "Columns"))
    if not 0 < rows * columns <= MAX_PIXELS:
        raise _refuse(header, "Rows", f"{rows} x {columns} pixels are none or too many; at most {MAX_PIXELS} are read")
    size = rows * columns * int(_number(header, "BitsAllocated")) // 8
    if not _syntax(header).is_encapsulated and len(header.PixelData) < size:
        raise _refuse(header, "PixelData", f"shorter than {rows} x {columns} pixels; the file is cut, get a new copy")


def _check_policy(header: Dataset, choices: Choices) -> None:
    """What can be decoded but must not be shown as if it were understood."""
    for field in LATER:
        if _value(header, field) is not None:
            raise _refuse(header, field, "not read yet; give an image with a plain window")
    if _text(header, "Modality") == "CT":
        raise _refuse(header, "Modality", "CT needs a bundle with a window in HU and is not read yet; give a film")
    if _text(header, "PresentationIntentType") == "FOR PROCESSING" and not choices.allow_for_processing:
        cure = (
            "FOR PROCESSING is not meant to be looked at; give the FOR PRESENTATION image or set allow_for_processing"
        )
        raise _refuse(header, "PresentationIntentType", cure)


def _refuse(header: Dataset, field: str, cure: str) -> DicomError:
    return DicomError(one_line(str(getattr(header, "filename", None) or "dataset"), field, cure))


def _value(header: Dataset, field: str) -> Any:
    """First value of a field, None where absent or empty; pydicom converts on access, so this is where it may fail."""
    try:
        with config.disable_value_validation():  # its warnings quote values
            value = header.get(field)
    except Exception:
        raise _refuse(header, field, "cannot be read; correct the header") from None
    if isinstance(value, (MultiValue, Sequence)):
        value = value[0] if value else None
    return None if value == "" else value


def _text(header: Dataset, field: str) -> str:
    return " ".join(str(_value(header, field) or "").split())


def _number(header: Dataset, field: str, default: float | None = None) -> float:
    """A finite number; absent: the default, and without one a refusal."""
    value = _value(header, field)
    if value is None:
        value = default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _refuse(header, field, "missing or not a finite number; correct the header")
    return number


def _stored_range(header: Dataset) -> tuple[int, int]:
    """Smallest and largest stored value that the header declares, inclusive (PS3.5 section 8.1.1)."""
    bits = int(_number(header, "BitsStored"))
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if _number(header, "PixelRepresentation") else (0, 2**bits - 1)


def _syntax(header: Dataset) -> uid.UID:
    """Transfer syntax; a file without meta header has the encoding that pydicom guessed."""
    stated = header.file_meta.get("TransferSyntaxUID")
    if stated:
        syntax = uid.UID(stated)
        if not syntax.is_transfer_syntax:
            raise _refuse(header, "TransferSyntaxUID", "not one of the standard's; convert the file")
        return syntax
    implicit, little = header.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _decode(header: Dataset) -> npt.NDArray[np.integer]:
    """Pixels by pydicom and its plugins."""
    syntax = header.file_meta.TransferSyntaxUID = _syntax(header)
    # python-gdcm (BSD) has every still codec but HTJ2K; pylibjpeg-libjpeg is GPL and never named.
    package = "pylibjpeg pylibjpeg-openjpeg" if "High-Throughput" in syntax.name else "python-gdcm"
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise _refuse(header, "TransferSyntaxUID", f"{syntax.name[:64]} is not supported; convert the file") from None
    if not available:
        raise _refuse(header, "TransferSyntaxUID", f"no decoder for {syntax.name}; pip install {package}")
    try:
        stored: npt.NDArray[np.integer] = pixel_array(header)
    except Exception as error:  # native decoders and damaged fragments raise nearly anything
        cure = (
            f"{syntax.name} cannot be decoded ({type(error).__name__}); the file is damaged, or pip install {package}"
        )
        raise _refuse(header, "PixelData", cure) from error
    if stored.shape != (_number(header, "Rows"), _number(header, "Columns")):
        raise _refuse(header, "PixelData", "decodes to another size than Rows x Columns; get a new copy")
    return stored
