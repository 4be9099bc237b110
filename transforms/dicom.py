"""From a DICOM file to a tensor in [0, 1]: one function for training, inference and the deployed application.

Readers disagree about polarity, and most apply no window; here the order of PS3.4 N.2 is written out once. The pure
functions of each step stand in ``display.py``, the facts that may leave the file in ``facts.py``.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import torch
from monai.data import MetaTensor
from pydicom import Dataset, config, uid
from pydicom.encaps import generate_frames, get_frame
from pydicom.pixels import get_decoder, pixel_array  # type: ignore[attr-defined]  # not in its __all__

from .codestream import rle_limit, size_of
from .display import Choices, Counts, Floats, check_hounsfield, displayed, modality, padding, polarity, read_palette
from .facts import Facts, facts_of
from .header import (
    DicomError,
    NotAnImage,
    name_of,
    number,
    of_frame,
    one_line,
    quiet,
    quoted,
    refuse,
    text,
    uid_name,
    value,
    values,
    warn,
    whole,
)

Stored = npt.NDArray[np.integer[Any]]
Image = npt.NDArray[np.float32]

MAX_PIXELS = Choices.max_pixels  # 8192 x 8192: twice the largest mammogram; a header that asks for more is hostile
REQUIRED = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit")
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
LUMA = np.array([0.299, 0.587, 0.114])
"""Y of R, G and B (PS3.3 C.7.6.3.1.2)."""
NO_PICTURES = (
    uid.SegmentationStorage,
    uid.RTDoseStorage,
    uid.SurfaceSegmentationStorage,
)
"""SOP classes whose pixels are labels or doses."""
DECODERS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow", "gdcm")
"""pydicom's plugins, the preferred first: all give the same pixels, but GDCM ends the process on some damaged streams,
so it decodes what no other does, JPEG Lossless."""
MAX_INFLATED = 4 * MAX_PIXELS  # bytes; a deflated file may grow a thousandfold
HEAD = 2**20  # bytes in which a file shows what it is
MAX_FRAMES = 2**16  # of a volume, because each takes its time however small it is
BLOCK = 64  # rows at a time, so that nothing of the image's size is made beside the result


def looks_like_dicom(path: str | Path) -> bool:
    """Whether the file has the preamble of PS3.10 section 7.1 or, without it, fields of DICOM at its start."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD)
        if head[128:132] == b"DICM":
            return True
        with quiet(), _Stream(head) as stream:
            header = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
    except Exception:  # pydicom raises nearly anything on bytes that are not DICOM
        return False
    return {"SOPClassUID", "Modality", "BitsAllocated"} & set(header.dir()) != set()


def read_stored(path: str | Path, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> tuple[Stored, Dataset]:
    """Decode the stored values; no policy is applied.

    Args:
        path: the file.
        frame: from 0, decoded alone; None is all frames.
        max_pixels: Rows × Columns × frames beyond this are refused before decoding.

    Returns:
        Stored values, no unit: (rows, columns), with a last axis of 3 for colour (YBR as RGB; palettes are not
        applied), with a first axis of frames where there are several and all are asked for. And the header.

    Raises:
        DicomError: damaged, larger than allowed or than the file, or no decoder for its transfer syntax.
        NotAnImage: sound, but a report, plan, directory or the like.

    Source: PS3.3 C.7.6.3 (Image Pixel Module), PS3.5 section 8.1.1.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> stored, header = read_stored(get_testdata_file("MR_small.dcm"))
        >>> stored.shape, stored.dtype.name, header.Modality
        ((64, 64), 'int16', 'MR')
    """
    header = read_header(path)
    return stored_of(header, frame, max_pixels), header


def stored_of(header: Dataset, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> Stored:
    """Stored values as in :func:`read_stored`, of a header that is read already."""
    check_image(header, frame, max_pixels)
    return _decode(header, frame)


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
    check_image(header, 0, MAX_PIXELS)
    check_policy(header, Choices(allow_for_processing=True))
    frames = range(whole(header, "NumberOfFrames", 1))
    return [facts_of(of_frame(header, frame), hashed) | {"frame": frame} for frame in frames]


def read_header(path: str | Path) -> Dataset:
    """All of a file but its pixels' meaning; raises :class:`DicomError` where it is not DICOM."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DicomError(one_line(path, "file", f"cannot be opened ({type(error).__name__}); check the path")) from None
    try:
        with quiet(), _Stream(data) as stream:
            header = pydicom.dcmread(stream, force=True)  # force: old films lack the preamble
    except Exception as error:  # damaged headers raise struct.error, TypeError, RecursionError, …
        cure = f"not DICOM, or its header is damaged ({type(error).__name__}); get a new copy"
        raise DicomError(one_line(path, "file", cure)) from None
    header.filename = str(path)
    header.file_meta.filename = str(path)  # so that an error about it names the file
    return header


class _Stream(io.BytesIO):
    """A file in memory: of one on a disk pydicom would allocate whatever the header claims."""

    def read(self, size: int | None = -1) -> bytes:
        """As usual; without a size, which means that all that follows is deflated, only if it stays small inflated."""
        data = super().read(size)
        if size == -1:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            inflater.decompress(data, MAX_INFLATED)
            if inflater.unconsumed_tail:
                raise OverflowError("inflates beyond MAX_INFLATED")
        return data


def to_tensor(
    stored: Stored,
    header: Dataset,
    choices: Choices | None = None,
    frame: int | None = None,
    hashed: Callable[[str], str] | None = None,
) -> MetaTensor:
    """Stored values through modality transform, VOI, polarity and padding, in this order; then crop and mirror.

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
    """Y = 0.299 R + 0.587 G + 0.114 B in float; windows, polarity and padding are for grey images only."""
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
        raise refuse(header, "SequenceOfUltrasoundRegions", "lies outside the image; correct the header")
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


def check_image(header: Dataset, frame: int | None, max_pixels: int) -> None:
    """All that can be known before decoding: kind, bits and size; see :func:`read_stored`."""
    check_kind(header)
    _check_bits(header)
    _check_size(header, frame, max_pixels)


def check_kind(header: Dataset) -> None:
    """Pixels, and the fields that say what they are."""
    if value(header, "PixelData") is None:
        kind = text(header, "SOPClassUID") or text(getattr(header, "file_meta", Dataset()), "MediaStorageSOPClassUID")
        if value(header, "FloatPixelData") is not None or value(header, "DoubleFloatPixelData") is not None:
            raise refuse(header, "FloatPixelData", "floating-point pixels have no declared range; convert to integers")
        if not kind and value(header, "Modality") is None and not values(header, "DirectoryRecordSequence"):
            raise refuse(header, "file", "not DICOM, or nothing of it can be read; get a new copy")
        name = uid_name(kind)
        if "Image Storage" in name:
            raise refuse(header, "PixelData", f"no pixel data in this {name}; the file is cut, get a new copy")
        raise NotAnImage(
            one_line(name_of(header), "PixelData", f"no pixel data, no image: {name or 'of no known kind'}")
        )
    if not isinstance(value(header, "PixelData"), bytes):
        raise refuse(header, "PixelData", "is not of bytes (VR OB or OW); correct the header")
    for field in REQUIRED:
        if value(header, field) is None:
            raise refuse(header, field, "missing; give a DICOM image, not a report, plan or directory")
    photometric = text(header, "PhotometricInterpretation")
    if photometric not in (*GREY, *COLOUR, "PALETTE COLOR"):
        raise refuse(header, "PhotometricInterpretation", f"{quoted(photometric)} is not read; convert to grey or RGB")
    samples = 3 if photometric in COLOUR else 1
    if whole(header, "SamplesPerPixel") != samples:
        raise refuse(header, "SamplesPerPixel", f"is not {samples}, as {photometric} has; correct the header")


def _check_bits(header: Dataset) -> None:
    allocated, stored, high_bit = (whole(header, field) for field in ("BitsAllocated", "BitsStored", "HighBit"))
    if allocated not in (1, 8, 16, 32):
        raise refuse(header, "BitsAllocated", f"{allocated} is not read; give an image of 8 or 16 bits")
    if not 1 <= stored <= allocated:
        raise refuse(header, "BitsStored", f"{stored} does not lie in 1..{allocated}; correct the header")
    if high_bit != stored - 1:  # decoders ignore it, and a left-aligned film comes out 16 times too bright
        raise refuse(header, "HighBit", f"{high_bit} is not BitsStored - 1 = {stored - 1}; align the pixels right")
    if whole(header, "PixelRepresentation", 0) not in (0, 1):
        raise refuse(header, "PixelRepresentation", "is neither 0 nor 1; correct the header")


def _check_size(header: Dataset, frame: int | None, max_pixels: int) -> None:
    """Before decoding: a header can ask for more memory than there is, or for other pixels than there are."""
    rows, columns, frames = (whole(header, "Rows"), whole(header, "Columns"), whole(header, "NumberOfFrames", 1))
    if frames < 1:
        raise refuse(header, "NumberOfFrames", f"{frames} is less than one; correct the header")
    if frame is not None and not 0 <= frame < frames:
        raise refuse(header, "NumberOfFrames", f"{frames}, so there is no frame {frame}; they count from 0")
    decoded = frames if frame is None else 1
    if decoded > MAX_FRAMES:
        raise refuse(header, "NumberOfFrames", f"{frames} frames; at most {MAX_FRAMES} are read as a volume, name one")
    if not 0 < rows * columns * decoded <= max_pixels:
        cure = f"{rows} x {columns} x {decoded} pixels are none or too many; at most {max_pixels} are read"
        raise refuse(header, "Rows", f"{cure}, or name a frame" if decoded > 1 else cure)
    data = value(header, "PixelData")
    held = len(data) if isinstance(data, bytes) else 0
    if _syntax(header).is_encapsulated:
        if held < 8 * frames:  # a fragment's own head, PS3.5 A.4
            cure = f"{held} bytes do not hold {frames} compressed frames; the file is cut, get a new copy"
            raise refuse(header, "PixelData", cure)
        return
    samples = whole(header, "SamplesPerPixel")
    bits = rows * columns * frames * samples * whole(header, "BitsAllocated")
    if text(header, "PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3  # two pixels share their chroma
    size = -(-bits // 8)
    if not size <= held <= size + 1:
        cure = f"{held} bytes, but {rows} x {columns} x {frames} pixels take {size}; the file is cut, get a new copy"
        raise refuse(header, "PixelData", cure)


def check_policy(header: Dataset, choices: Choices) -> None:
    """What can be decoded but must not be shown as if it were understood."""
    if text(header, "SOPClassUID") in NO_PICTURES:
        name = uid_name(text(header, "SOPClassUID"))
        raise NotAnImage(one_line(name_of(header), "SOPClassUID", f"labels or doses, no image: {name}"))
    if text(header, "PhotometricInterpretation") not in COLOUR and whole(header, "BitsAllocated") not in (8, 16):
        raise refuse(header, "BitsAllocated", "grey and palette images of 8 or 16 bits are read; convert it")
    if text(header, "PresentationIntentType") == "FOR PROCESSING" and not choices.allow_for_processing:
        cure = (
            "FOR PROCESSING is not meant to be looked at; give the FOR PRESENTATION image or set allow_for_processing"
        )
        raise refuse(header, "PresentationIntentType", cure)


def _syntax(header: Dataset) -> uid.UID:
    """Transfer syntax; a file without meta header has the encoding that pydicom guessed."""
    stated = text(header.file_meta, "TransferSyntaxUID")
    if stated:
        syntax = uid.UID(stated, config.IGNORE)
        if not syntax.is_transfer_syntax:
            raise refuse(header, "TransferSyntaxUID", "not one of the standard's; convert the file")
        return syntax
    implicit, little = header.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _decode(header: Dataset, frame: int | None) -> Stored:
    """Pixels by pydicom and its plugins, in native byte order."""
    syntax = header.file_meta.TransferSyntaxUID = _syntax(header)
    # python-gdcm (BSD) has every still codec but HTJ2K; pylibjpeg-libjpeg is GPL and never named
    package = "pylibjpeg pylibjpeg-openjpeg" if "High-Throughput" in syntax.name else "python-gdcm"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise refuse(header, "TransferSyntaxUID", f"{syntax.name} is not supported; convert the file") from None
    if not decoder.is_available:
        raise refuse(header, "TransferSyntaxUID", f"no decoder for {syntax.name}; pip install {package}")
    if syntax.is_encapsulated:
        _check_streams(header, syntax, frame)
    plugin = next((name for name in DECODERS if name in decoder.available_plugins), "")
    try:
        with quiet():
            stored: Stored = pixel_array(header, index=frame, decoding_plugin=plugin)
    except Exception as error:  # native decoders and damaged fragments raise nearly anything
        tried = f" by {plugin}" if plugin else ""
        cure = f"{syntax.name} not decoded{tried} ({type(error).__name__}); get a new copy, or convert it"
        raise refuse(header, "PixelData", cure) from None
    _check_shape(header, stored, frame)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _check_streams(header: Dataset, syntax: uid.UID, frame: int | None) -> None:
    """As many streams as frames, each to be decoded as large as the header says: see ``codestream.py``."""
    data, frames = value(header, "PixelData"), whole(header, "NumberOfFrames", 1)
    table = value(header, "ExtendedOffsetTable"), value(header, "ExtendedOffsetTableLengths")
    how: dict[str, Any] = {"number_of_frames": frames, "extended_offsets": None if None in table else table}
    fits = _fits_rle if syntax == uid.RLELossless else _fits
    try:
        with quiet():
            streams = generate_frames(data, **how) if frame is None else [get_frame(data, frame, **how)]
            sound = [fits(stream, header) for stream in streams]
    except Exception:  # damaged fragments and offset tables raise nearly anything
        raise refuse(header, "PixelData", "its fragments are damaged; get a new copy") from None
    if frame is None and len(sound) != frames:
        raise refuse(header, "NumberOfFrames", f"{frames}, but there are {len(sound)} streams; get a new copy")
    if not all(sound):
        cure = "its stream is damaged or of another size than Rows x Columns x SamplesPerPixel; get a new copy"
        raise refuse(header, "PixelData", cure)


def _fits(stream: bytes, header: Dataset) -> bool:
    size, allocated = size_of(stream), whole(header, "BitsAllocated")
    said = tuple(whole(header, field) for field in ("Rows", "Columns", "SamplesPerPixel"))
    return size is not None and size[:3] == said and size.bits <= allocated <= size.largest


def _fits_rle(stream: bytes, header: Dataset) -> bool:
    fields = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    return math.prod(whole(header, field) for field in fields) // 8 <= rle_limit(stream)


def _check_shape(header: Dataset, stored: Stored, frame: int | None) -> None:
    frames = 1 if frame is not None else whole(header, "NumberOfFrames", 1)
    expected = (frames,) * (frames > 1) + (whole(header, "Rows"), whole(header, "Columns"))
    if stored.shape not in (expected, (*expected, 3)):
        raise refuse(header, "PixelData", "decodes to another size than Rows x Columns; get a new copy")
