"""A film in any format as one tensor: DICOM, PNG, JPEG and NIfTI behind a MONAI reader, told apart by content.

A bundle's first transform: ``LoadImaged(keys="image", reader=FilmReader(), ensure_channel_first=True)``.
"""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, ensure_tuple
from PIL import Image, ImageOps
from pydicom import Dataset
from pydicom.misc import is_dicom

from . import dicom
from .dicom import LUMA
from .display import Choices
from .facts import NO_FACTS, Facts
from .header import DicomError, one_line, refuse, whole
from .luts import Floats
from .stored import check_image, check_kind, looks_like_dicom, read_header, stored_of

GREY_OR_RGB = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}


class ImageError(ValueError):
    """A refused image, as one line ``<basename>: <field>: <what is wrong; what to do>``."""


class ForeignFile(ImageError):  # noqa: N818 - what it is, not what went wrong
    """A file of none of the formats that are read."""


class VolumeFile(ImageError):  # noqa: N818
    """A volume, which ``volume.VolumeReader`` reads, where a film is wanted."""


class FilmReader(ImageReader):  # type: ignore[misc]  # monai has no types
    """MONAI reader of single films: (rows, columns) float32 in [0, 1], whatever the format.

    DICOM goes through ``dicom.to_tensor``. Unsigned integers of PNG, JPEG and NIfTI are divided by their type's
    maximum, floats must lie in [0, 1], colour becomes Y = 0.299R + 0.587G + 0.114B. A NIfTI that states an orientation
    is turned to LPS axes, so that its rows and columns are those of the DICOM film.

    The metadata hold ``film_format`` and the keys of ``facts.NO_FACTS`` with the prefix ``film_``, the same for every
    format: no ids, names or dates. (LoadImage itself adds the path as ``filename_or_obj``.)

    A frame of a file with several is named by the path, ``loop.dcm#frame=12`` (from 0), so that a frame can be an item
    of a data list. Such a file's bytes are kept until another one is read: its frames, one after the other, read it
    once, decode each frame alone, and warn once.

    Args:
        choices: what the bundle decides about ambiguous DICOM files.
        frame: the frame to take of every file; ``"all"`` reads several frames as a volume (frames, rows, columns);
            None takes the one that the path names, or refuses files with several.
        hashed: how identifiers are hashed for the metadata; None states none.

    Raises:
        DicomError, ImageError: by ``get_data``, in one line naming the field.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> reader = FilmReader()
        >>> image, meta = reader.get_data(reader.read(get_testdata_file("MR_small.dcm")))
        >>> image.shape, image.dtype.name, meta["film_format"], meta["film_window"]
        ((64, 64), 'float32', 'DICOM', '600/1600 LINEAR')
    """

    def __init__(
        self,
        choices: Choices | None = None,
        frame: int | Literal["all"] | None = None,
        hashed: Callable[[str], str] | None = None,
    ) -> None:
        self.choices, self.frame, self.hashed = choices or Choices(), frame, hashed
        self._kept: tuple[tuple[Path, int, int], Dataset] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the file that is kept: a loader's workers read for themselves."""
        return self.__dict__ | {"_kept": None}

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Any: the content decides, in ``get_data``."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[Path, ...]:
        """Return the paths, unread.

        LoadImage takes an exception raised *here* as "try the next reader": a refused film would come back through
        MONAI's own readers, without window and perhaps inverted. ``get_data`` may refuse.
        """
        return tuple(Path(path) for path in ensure_tuple(data))

    def frames(self, path: PathLike) -> dict[int, Path]:
        """Number of each image of a file, and the path that names it: one, but of a DICOM file of several frames.

        Told from the header; nothing is decoded. One again where the path or this reader names the frame.

        Raises:
            DicomError, ImageError: what is wrong with the file as a whole, as by ``get_data``.

        Example:
            >>> from pydicom.data import get_testdata_file
            >>> loop = get_testdata_file("examples_ybr_color.dcm")
            >>> frames = FilmReader().frames(loop)
            >>> len(frames), frames[29].name, list(FilmReader().frames(f"{loop}#frame=7"))
            (30, 'examples_ybr_color.dcm#frame=29', [7])
        """
        file, named = named_frame(Path(path))
        frame = self.frame if named is None else named
        with refusing(file):
            if frame is not None or _format(file) != "DICOM":
                return {frame if isinstance(frame, int) else 0: Path(path)}
            self._kept = None  # read anew, and warn anew
            header = self._header(file)
            check_image(header, 0, self.choices.max_pixels)
            count = whole(header, "NumberOfFrames", 1)
        return {0: file} if count == 1 else {k: file.with_name(f"{file.name}#frame={k}") for k in range(count)}

    def get_data(self, img: tuple[Path, ...]) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Decode one film; (rows, columns), or (frames, rows, columns), float32 in [0, 1], and its metadata."""
        path, frame = named_frame(img[0])
        if len(img) != 1:
            raise _refuse(path, "files", "a film is one file; give one path an image")
        with refusing(path):
            image, facts = self._film(path, self.frame if frame is None else frame)
        meta: dict[str, Any] = {f"film_{key}": value for key, value in facts.items()}
        meta[MetaKeys.SPATIAL_SHAPE] = np.array(image.shape)
        meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = float("nan")  # MONAI's "no channel"
        return image, meta

    def _film(self, path: Path, frame: int | Literal["all"] | None) -> tuple[npt.NDArray[np.float32], Facts]:
        form = _format(path)
        image: npt.NDArray[Any]
        if form == "DICOM":
            image, facts = self._dicom(path, frame)
        elif frame not in (None, 0, "all"):
            raise _refuse(path, "frames", f"one, so there is no frame {frame}; they count from 0")
        else:
            image = (_nifti if form == "NIfTI" else _raster)(path, self.choices.max_pixels)
            facts = dict(NO_FACTS) | {"rows": image.shape[0], "columns": image.shape[1]}
        check_pixels(image, path)
        return image.astype(np.float32, copy=False), facts | {"format": form}

    def _dicom(self, path: Path, frame: int | Literal["all"] | None) -> tuple[npt.NDArray[np.float32], Facts]:
        header = self._header(path)
        if whole(header, "NumberOfFrames", 1) == 1:
            self._kept = None  # nobody reads it again
        elif frame is None:
            cure = f"several frames; give each by its name, from {path.name}#frame=0 on (in Python all: frame='all')"
            raise refuse(header, "NumberOfFrames", cure)
        alone = frame if isinstance(frame, int) else None
        stored = stored_of(header, alone, self.choices.max_pixels)
        tensor = dicom.to_tensor(stored, header, self.choices, alone, self.hashed)
        image: npt.NDArray[np.float32] = tensor.as_tensor()[0].numpy()
        return image, {key: tensor.meta[key] for key in NO_FACTS}

    def _header(self, path: Path) -> Dataset:
        """Header of a picture, its pixels undecoded; kept until another one is asked for."""
        stat = path.stat()
        key, kept = (path, stat.st_mtime_ns, stat.st_size), self._kept
        if kept is None or kept[0] != key:
            kept = self._kept = None  # freed before the next one is read
            header = read_header(path)
            check_kind(header)
            dicom.check_policy(header, self.choices)
            self._kept = kept = key, header
        return kept[1]


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file raises into a refusal."""
    try:
        yield
    except (DicomError, ImageError):
        raise
    except OSError as error:  # its text holds the directory: not chained
        cure = "check that it is whole" if error.errno is None else "check its path and permissions"
        raise _refuse(path, "file", f"not readable ({type(error).__name__}); {cure}") from None
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise _refuse(path, "pixels", f"not decodable ({type(error).__name__}); get a new copy") from error


def named_frame(path: Path) -> tuple[Path, int | None]:
    """A path without its ``#frame=<number>``, and that number; a file that is called so stands for itself.

    Example:
        >>> named_frame(Path("a/loop.dcm#frame=12"))
        (PosixPath('a/loop.dcm'), 12)
    """
    found = re.fullmatch(r"(.+)#frame=(0|[1-9][0-9]*)", path.name, re.DOTALL)
    if found is None or os.path.isfile(path):
        return path, None
    return path.with_name(found[1]), int(found[2])


def _format(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise _refuse(path, "file", "empty; get a new copy")
    if is_dicom(path):
        return "DICOM"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x1f\x8b") or nifti_class(head):
        return "NIfTI"
    if looks_like_dicom(path):  # old films without preamble: last, because nearly any bytes can be forced
        return "DICOM"
    raise ForeignFile(
        one_line(path, "format", "neither a DICOM image, PNG, JPEG nor NIfTI; convert it to one of these")
    )


def check_pixels(image: npt.NDArray[Any], path: Path) -> None:
    """Refuse an image that is not finite, leaves [0, 1], or is empty."""
    if not np.isfinite(image).all():
        raise _refuse(path, "pixels", "hold NaN or infinity; replace them before reading")
    if image.min() < 0 or image.max() > 1:
        raise _refuse(path, "pixels", "floats lie outside [0, 1]; divide them by their full scale")
    if image.min() == image.max():
        raise _refuse(path, "pixels", "all have one value; the image is empty or outside its window, leave it out")


def unit(values: npt.NDArray[Any], path: Path) -> Floats:
    """Unsigned integers by their type's maximum, so that a grey level means the same in every film; floats as is."""
    if np.issubdtype(values.dtype, np.unsignedinteger):
        return values / np.float64(np.iinfo(values.dtype).max)
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float64)
    raise _refuse(path, "datatype", f"{values.dtype} has no full scale; save as uint8, uint16 or float in [0, 1]")


def _raster(path: Path, max_pixels: int) -> Floats:
    """PNG or JPEG by Pillow, upright."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        if image.width * image.height > max_pixels:
            raise _refuse(path, "size", f"{image.height} x {image.width} is over {max_pixels} pixels; make it smaller")
        _check_raster(image, data, path)
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey: "I;16", in older Pillow "I"
        return unit(np.asarray(upright).astype(np.uint16), path)
    values = unit(np.asarray(upright.convert(GREY_OR_RGB[upright.mode])), path)
    return values @ LUMA if values.ndim == 3 else values


def _check_raster(image: Image.Image, data: bytes, path: Path) -> None:
    deep = image.mode.startswith("I")
    if getattr(image, "n_frames", 1) > 1:
        raise _refuse(path, "frames", "more than one; save the frame that you mean")
    if image.mode not in GREY_OR_RGB and not deep:
        raise _refuse(path, "mode", f"{image.mode} is neither grey nor RGB; convert it")
    if image.format == "PNG" and data[24] == 16 and not deep:  # byte 24: IHDR, bits a sample
        raise _refuse(path, "bit depth", "Pillow cuts 16-bit colour to 8 bits; save as 16-bit grey")
    if image.has_transparency_data and (deep or image.convert("RGBA").getchannel("A").getextrema() != (255, 255)):
        raise _refuse(path, "alpha", "not opaque, so the grey level depends on the page; flatten the image")


def nifti_class(head: bytes) -> Any:
    """Class of nibabel for the NIfTI file that begins so; None where it is none."""
    kinds = (nib.Nifti1Image, nib.Nifti2Image)
    return next((kind for kind in kinds if kind.header_class.may_contain_header(head)), None)


def _nifti(path: Path, max_pixels: int) -> Floats:
    """A film of shape (columns, rows) or (columns, rows, 1) -> (rows, columns); nibabel by bytes needs no suffix."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            data = file.read(8 * max_pixels + 2**20)  # the largest film in float64, and its header
    kind = nifti_class(data[:1024])
    if kind is None:
        raise ForeignFile(one_line(path, "format", "gzip, but not of a NIfTI; give DICOM, PNG, JPEG or NIfTI"))
    image = kind.from_bytes(data)
    shape = image.shape
    if len(shape) < 2 or any(size != 1 for size in shape[2:]):
        cure = f"{shape} is not one film; give one slice, or read the volume with VolumeReader"
        raise VolumeFile(one_line(path, "dim", cure))
    if shape[0] * shape[1] > max_pixels:
        raise _refuse(path, "dim", f"{shape} is over {max_pixels} pixels; make it smaller")
    values = _to_lps(np.asarray(image.dataobj).reshape(*shape[:2], 1), image)
    if values.shape[2] != 1:
        raise _refuse(path, "affine", "the film does not lie in the left-posterior plane; save it as PNG")
    return unit(values[:, :, 0].T, path)


def _to_lps(values: npt.NDArray[Any], image: Any) -> npt.NDArray[Any]:
    """Axes to the left, posterior and superior, where the file states an orientation; else as stored."""
    if image.header["qform_code"] == 0 and image.header["sform_code"] == 0:
        return values
    lps = nib.orientations.axcodes2ornt("LPS")
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), lps)
    turned: npt.NDArray[Any] = nib.orientations.apply_orientation(values, turn)
    return turned


def _refuse(path: Path, field: str, cure: str) -> ImageError:
    return ImageError(one_line(path, field, cure))
