"""From a DICOM file to its stored values: everything is checked before a decoder runs, and no policy is applied."""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset, config, uid
from pydicom.encaps import generate_frames, get_frame
from pydicom.pixels import get_decoder, pixel_array  # type: ignore[attr-defined]  # not in its __all__

from .codestream import rle_limit, size_of
from .display import Choices
from .header import (
    DicomError,
    NotAnImage,
    name_of,
    one_line,
    quiet,
    quoted,
    refuse,
    text,
    uid_name,
    value,
    values,
    whole,
)

Stored = npt.NDArray[np.integer[Any]]

MAX_PIXELS = Choices.max_pixels  # 8192 x 8192: twice the largest mammogram; a header that asks for more is hostile
REQUIRED = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit")
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
DECODERS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow", "gdcm")
"""pydicom's plugins, the preferred first: all give the same pixels, but GDCM ends the process on some damaged streams,
so it decodes what no other does, JPEG Lossless."""
MAX_INFLATED = 4 * MAX_PIXELS  # bytes; a deflated file may grow a thousandfold
HEAD = 2**20  # bytes in which a file shows what it is
MAX_FRAMES = 2**16  # of a volume, because each takes its time however small it is


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


def read_header(path: str | Path) -> Dataset:
    """All of a file but its pixels' meaning; raises :class:`DicomError` where it is not DICOM."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        cure = f"cannot be opened ({type(error).__name__}); check its path and permissions"
        raise DicomError(one_line(path, "file", cure)) from None
    if not data:
        raise DicomError(one_line(path, "file", "empty; get a new copy"))
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


def check_image(header: Dataset, frame: int | None, max_pixels: int) -> None:
    """All that can be known before decoding: kind, bits and size; see :func:`read_stored`."""
    check_kind(header)
    _check_bits(header)
    _check_size(header, frame, max_pixels)


def check_kind(header: Dataset) -> None:
    """Pixels, and the fields that say what they are. PS3.3 C.7.6.3, C.7.6.24 (floating point)."""
    if value(header, "PixelData") is None:
        kind = text(header, "SOPClassUID") or text(getattr(header, "file_meta", Dataset()), "MediaStorageSOPClassUID")
        floats = any(value(header, field) is not None for field in ("FloatPixelData", "DoubleFloatPixelData"))
        if floats and kind != uid.ParametricMapStorage:
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
    """Bits of a sample, aligned right. PS3.5 section 8.1.1."""
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
    """Before decoding: a header can ask for more memory than there is, or for other pixels than there are.

    Source: PS3.5 section 8.1.1 (native), 8.2 and A.4 (encapsulated); PS3.3 C.7.6.6 (frames).
    """
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
        cure = "the file is cut, get a new copy" if held < size else "more than that, correct the header"
        raise refuse(header, "PixelData", f"{held} bytes, but {rows} x {columns} x {frames} pixels take {size}; {cure}")


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
    plugins = decoder.available_plugins
    if syntax == uid.JPEGExtended12Bit and whole(header, "BitsStored") > 8 and "pylibjpeg" not in plugins:
        raise refuse(header, "TransferSyntaxUID", "JPEG Extended of 12 bits has no free decoder; convert it")
    plugin = next((name for name in DECODERS if name in plugins), "")
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
