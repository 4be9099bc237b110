"""From a DICOM file to a tensor in [0, 1]: one function for training, inference and the deployed application.

Readers disagree about polarity, and most apply no window; here the order of PS3.4 N.2 is written out once. Stored
values come from ``stored.py``, each step from ``display.py``, what may leave the file from ``facts.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from pydicom import Dataset, uid

from .display import Choices, Counts, check_hounsfield, displayed, modality, padding, polarity
from .facts import Facts, facts_of
from .header import NotAnImage, name_of, number, of_frame, one_line, refuse, text, uid_name, values, warn, whole
from .luts import Floats, read_palette
from .stored import COLOUR, GREY, Stored, check_image, read_header
from .stored import read_stored as read_stored

Image = npt.NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114])
"""Y of R, G and B (PS3.3 C.7.6.3.1.2)."""
NO_PICTURES = {
    "SOPClassUID": (
        *(uid.SegmentationStorage, uid.SurfaceSegmentationStorage, uid.RTDoseStorage, uid.ParametricMapStorage),
        *("1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.66.8"),  # Label Map and Height Map Segmentation
    ),
    "Modality": ("SEG", "RTDOSE"),
}
"""Field -> values whose pixels are labels, doses or measures (PS3.3 A.51, A.18 and A.75)."""
BLOCK = 64  # rows at a time, so that nothing of the image's size is made beside the result


def read_facts(path: str | Path, hashed: Callable[[str], str] | None = None) -> list[Facts]:
    """What ``facts.facts_of`` says of every frame of a file, in order; no pixel is decoded.

    Args:
        path: the file.
        hashed: how identifiers are hashed; None states none.

    Raises:
        DicomError: not DICOM, damaged, larger than allowed, or no picture. What a bundle may allow is not refused.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> (facts,) = read_facts(get_testdata_file("MR_small.dcm"))
        >>> facts["modality"], facts["sex"], facts["patient_id"]
        ('MR', 'F', '')
    """
    header = read_header(path)
    check_image(header, 0, Choices.max_pixels)
    check_policy(header, Choices(allow_for_processing=True))
    frames = range(whole(header, "NumberOfFrames", 1))
    return [facts_of(of_frame(header, frame), hashed) | {"frame": frame} for frame in frames]


def to_tensor(
    stored: Stored,
    header: Dataset,
    choices: Choices | None = None,
    frame: int | None = None,
    hashed: Callable[[str], str] | None = None,
) -> MetaTensor:
    """Stored values through crop, modality transform, VOI, polarity, padding and mirroring, in this order.

    Args:
        stored: as :func:`read_stored` gave it.
        header: of the same file.
        choices: what the bundle decides; by default everything ambiguous is refused.
        frame: which frame ``stored`` is, if it was read alone; None with several frames makes a volume.
        hashed: see :func:`rtda.transforms.facts.facts_of`.

    Returns:
        (1, rows, columns), or (1, frames, rows, columns) of a volume, float32 in [0, 1], 1 the brightest on a viewing
        station, padding 0. Its ``meta`` holds the keys of ``facts.NO_FACTS``: no names, dates or plain identifiers.

    Raises:
        DicomError: naming the field that is missing, contradictory or not supported.

    Warns:
        UserWarning: BurnedInAnnotation is YES; an ultrasound image without regions; a LUT beside a rescale.

    Source: PS3.4 N.2; PS3.3 C.7.6.3.1.2 (colour), C.8.5.5 (ultrasound regions).

    Example:
        >>> header = Dataset()
        >>> header.Modality, header.PhotometricInterpretation, header.SamplesPerPixel = "DX", "MONOCHROME1", 1
        >>> header.BitsAllocated, header.BitsStored, header.PixelRepresentation = 8, 8, 0
        >>> to_tensor(np.array([[0, 255]], np.uint8), header).as_tensor()
        tensor([[[1., 0.]]])
    """
    choices = choices or Choices()
    check_policy(header, choices)
    if frame is None and whole(header, "NumberOfFrames", 1) > 1:
        image, decided = _pictures(stored, header, choices)
    else:
        image, decided = _picture(stored, of_frame(header, frame or 0), choices)
    facts = facts_of(of_frame(header, frame or 0), hashed) | {"frame": frame or 0}
    if facts["burned_in"] == "YES":
        cure = "YES, so names may stand in the pixels; look before you share pictures of it"
        warn(header, "BurnedInAnnotation", cure)
    return MetaTensor(torch.from_numpy(image)[None], meta=facts | decided)


def to_units(stored: Stored, header: Dataset, choices: Choices | None = None, frame: int = 0) -> Image:
    """Stored values of one grey frame in modality units, HU in CT, with no display step.

    Args:
        stored: (rows, columns) of that frame, as :func:`read_stored` gave it.
        header: of the same file.
        choices: what the bundle decides.
        frame: which frame ``stored`` is.

    Returns:
        (rows, columns) float32, NaN where the image is padding.

    Raises:
        DicomError: colour, CT that is not known to be in HU, or a damaged header.

    Source: PS3.3 C.11.1 (Modality LUT), C.7.5.1.1.2 (padding).

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> to_units(*read_stored(get_testdata_file("CT_small.dcm")))[0, :3]
        array([-849., -844., -858.], dtype=float32)
    """
    choices = choices or Choices()
    check_policy(header, choices)
    header = of_frame(header, frame)
    if text(header, "PhotometricInterpretation") not in GREY:
        raise refuse(header, "PhotometricInterpretation", "colour has no modality units; give a grey image")
    if text(header, "Modality") == "CT":
        check_hounsfield(header, choices)
    levels = _levels(stored, header)
    return _look_up(np.where(padding(levels, header), np.nan, modality(levels, header).x), levels, stored)


def _pictures(stored: Stored, header: Dataset, choices: Choices) -> tuple[Image, Facts]:
    """All frames as (frames, rows, columns), each by its own header."""
    if stored.ndim < 3 + (text(header, "PhotometricInterpretation") in COLOUR):
        raise ValueError("frame: stored is one frame of several; say which")
    every = (_picture(one, of_frame(header, k), choices) for k, one in enumerate(stored))
    image, decided = next(every)
    images = np.empty((len(stored), *image.shape), np.float32)
    images[0] = image
    for k, (image, other) in enumerate(every, 1):
        images[k] = image
        differing = {key: "differs by frame" for key in decided if other[key] != decided[key] and key != "padding"}
        decided |= differing | {"padding": decided["padding"] or other["padding"]}
    return images, decided


def _picture(stored: Stored, header: Dataset, choices: Choices) -> tuple[Image, Facts]:
    """One frame as (rows, columns) in [0, 1], and what was decided on the way."""
    rows, columns = _region(header, choices, stored.shape[:2])
    part = stored[rows, columns]  # the crop first: all else is by pixel, and percentiles are those of what is shown
    if mirrored := _mirrors(header, choices):
        part = part[:, ::-1]
    grey = text(header, "PhotometricInterpretation") in GREY
    image, decided = _grey(part, header, choices) if grey else _luma(part, header)
    if part.shape != stored.shape:
        decided["crop"] = f"rows {rows.start}..{rows.stop - 1}, columns {columns.start}..{columns.stop - 1}"
    return image, decided | {"rows": image.shape[0], "columns": image.shape[1], "mirrored": mirrored}


def _grey(stored: Stored, header: Dataset, choices: Choices) -> tuple[Image, Facts]:
    """Everything is pointwise, so it is computed on one float64 table over stored values and cast once."""
    levels = _levels(stored, header)
    units, masked = modality(levels, header), padding(levels, header)

    def counts() -> Counts:
        blocks = (np.bincount(index.ravel(), minlength=len(levels)) for _, index in _indices(levels, stored))
        return np.where(masked, 0, sum(blocks))

    table, window = displayed(units, header, choices, counts)
    turned, why = polarity(header, choices)
    table = np.where(masked, 0, 1 - table if turned else table)
    met = bool(masked.any()) and any(masked[index].any() for _, index in _indices(levels, stored))
    decided: Facts = {"rescale": units.name, "window": window, "polarity": why, "padding": met}
    return _look_up(table, levels, stored), decided


def _luma(stored: Stored, header: Dataset) -> tuple[Image, Facts]:
    """Y = 0.299 R + 0.587 G + 0.114 B in float; windows, polarity and padding are for grey images only. C.7.6.3.1.2."""
    if text(header, "PhotometricInterpretation") == "PALETTE COLOR":
        levels = _levels(stored, header)
        luts = read_palette(header, signed=levels[0] < 0)
        image = _look_up(np.stack([lut(levels) / (2**lut.bits - 1) for lut in luts], -1) @ LUMA, levels, stored)
    else:
        full = 2 ** whole(header, "BitsStored") - 1
        if stored.ndim != 3 or stored.min() < 0 or stored.max() > full:
            raise refuse(header, "BitsStored", f"pixels are not three samples of 0..{full}; correct the header")
        image = np.empty(stored.shape[:2], np.float32)
        for block in _blocks(stored):
            image[block] = stored[block] / full @ LUMA
    why = f"as stored ({text(header, 'PhotometricInterpretation')})"
    decided: Facts = {"rescale": "", "window": "", "polarity": why, "padding": False}
    return image.clip(0, 1, out=image), decided


def _levels(stored: Stored, header: Dataset) -> Floats:
    """Ends of the stored values that the header declares, and between them all from the image's least to its greatest.

    Ascending; few for a small image, on which all 65,536 would take longer than its decoding. PS3.5 section 8.1.1.
    """
    bits = whole(header, "BitsStored")
    low = -(2 ** (bits - 1)) if number(header, "PixelRepresentation") else 0
    high = low + 2**bits - 1
    least, greatest = int(stored.min()), int(stored.max())
    if least < low or greatest > high:
        raise refuse(header, "BitsStored", f"pixels lie outside the declared {low}..{high}; correct the header")
    return np.concatenate([[low], np.arange(least, greatest + 1), [high]], dtype=np.float64)


def _look_up(table: Floats, levels: Floats, stored: Stored) -> Image:
    """Entries of a table over levels, cast once."""
    image, single = np.empty(stored.shape, np.float32), table.astype(np.float32)
    for block, index in _indices(levels, stored):
        single.take(index, out=image[block], mode="clip")  # none is outside; other modes go through a buffer
    return image


def _indices(levels: Floats, stored: Stored) -> Iterator[tuple[slice, npt.NDArray[np.intp]]]:
    """Where stored values stand among levels, by blocks of rows."""
    for block in _blocks(stored):
        yield block, np.subtract(stored[block], int(levels[1]) - 1, dtype=np.intp)


def _blocks(stored: Stored) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, len(stored), BLOCK))


def _region(header: Dataset, choices: Choices, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Bounding box of the 2-D tissue regions of an ultrasound image, both ends inclusive (PS3.3 C.8.5.5.1)."""
    every = values(header, "SequenceOfUltrasoundRegions")
    if choices.region is not None and choices.region >= len(every):
        cure = f"has {len(every)} items, none numbered {choices.region}; name another region"
        raise refuse(header, "SequenceOfUltrasoundRegions", cure)
    tissue = [r for r in every if (number(r, "RegionSpatialFormat", 0), number(r, "RegionDataType", 0)) == (1, 1)]
    chosen = tissue if choices.region is None else [every[choices.region]]
    whole_image = slice(0, shape[0]), slice(0, shape[1])
    if not chosen:
        if text(header, "Modality") == "US":
            cure = "no region of 2-D tissue; the whole image is used, with its text and borders"
            warn(header, "SequenceOfUltrasoundRegions", cure)
        return whole_image
    ends = ("MinX0", "MinY0", "MaxX1", "MaxY1")
    boxes = np.array([[int(number(r, f"RegionLocation{end}")) for end in ends] for r in chosen])
    (left, top), (right, bottom) = boxes[:, :2].min(0).clip(0), boxes[:, 2:].max(0)
    right, bottom = min(right, shape[1] - 1), min(bottom, shape[0] - 1)
    if left >= right or top >= bottom:
        cure = "lies outside the image or is a single line of it; correct the header"
        raise refuse(header, "SequenceOfUltrasoundRegions", cure)
    return slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)


def _mirrors(header: Dataset, choices: Choices) -> bool:
    """Whether a mammogram must be mirrored: rows that run to the anterior begin at the chest wall (C.7.6.1.1.1)."""
    if choices.chest_wall is None or text(header, "Modality") != "MG":
        return False
    along = text(header, "PatientOrientation")
    wall = next((side for letter, side in (("A", "left"), ("P", "right")) if letter in along), None)
    if wall is None:
        raise refuse(header, "PatientOrientation", "does not say where the chest wall is; leave chest_wall out")
    return wall != choices.chest_wall


def check_policy(header: Dataset, choices: Choices) -> None:
    """What can be decoded but must not be shown as if it were understood.

    Raises:
        NotAnImage: labels, doses or measures.
        DicomError: grey pixels of neither 8 nor 16 bits; FOR PROCESSING, if only by the SOP class, unless allowed.

    Source: PS3.3 C.7.6.3 (bits), C.8.11.1.1.1 (intent); PS3.4 B.5 (SOP classes).
    """
    for field, kinds in NO_PICTURES.items():
        if (kind := text(header, field)) in kinds:
            cure = f"labels, doses or measures, no image: {uid_name(kind) or kind}"
            raise NotAnImage(one_line(name_of(header), field, cure))
    if text(header, "PhotometricInterpretation") not in COLOUR and whole(header, "BitsAllocated") not in (8, 16):
        raise refuse(header, "BitsAllocated", "grey and palette images of 8 or 16 bits are read; convert it")
    intents = {
        "PresentationIntentType": text(header, "PresentationIntentType"),
        "SOPClassUID": uid_name(text(header, "SOPClassUID")).upper(),
    }
    for field, intent in intents.items():
        if intent.endswith("FOR PROCESSING") and not choices.allow_for_processing:
            cure = "is not meant to be looked at; give the FOR PRESENTATION image or set allow_for_processing"
            raise refuse(header, field, f"FOR PROCESSING {cure}")
