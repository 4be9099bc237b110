"""A volume from a DICOM series, an enhanced multi-frame file or a NIfTI file, with one order of axes.

Array axes are (depth, rows, columns) and run most nearly to the superior, posterior and left, whatever the plane of
acquisition: an ordinary axial series as it is stored, others permuted and flipped, never resampled. Affines are those
of MONAI's readers: (depth, row, column, 1) -> mm to the right, anterior and superior (``space`` RAS; axis codes SPL).
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data import ImageReader, MetaTensor, NibabelReader
from monai.data.utils import orientation_ras_lps
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from . import dicom
from .display import Choices, linear_exact
from .facts import NO_FACTS, Facts
from .header import one_line
from .luts import Floats
from .planes import Plane, Source, decoded, located
from .reader import ImageError, check_pixels, nifti_class, refusing, unit

Volume = npt.NDArray[np.float32]


def read_units(source: Source, choices: Choices | None = None, series: str | None = None) -> tuple[Volume, Floats]:
    """Modality values of a DICOM volume: HU in CT.

    Args:
        source: folder of a series (files that are no images are passed over), its files, or one multi-frame file.
        choices: what the bundle decides.
        series: SeriesInstanceUID to take where there are several.

    Returns:
        (depth, rows, columns) float32, NaN where the image is padding; and its affine, (4, 4) in mm.

    Raises:
        DicomError: as in ``planes.located`` and ``dicom.to_units``.

    Source: PS3.3 C.11.1 (Modality LUT).

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> folder = Path(get_testdata_file("CT_small.dcm")).parent / "dicomdirtests/98892001/CT5N"
        >>> units, affine = read_units(folder)
        >>> units.shape, affine[:3, 0].tolist()
        ((5, 16, 16), [0.0, 0.0, 2.5])
    """
    choices = choices or Choices()
    planes, affine = located(source, choices, series)
    slices = (dicom.to_units(stored, header, choices, k) for stored, header, k in decoded(planes, choices))
    return oriented(np.stack(list(slices)), affine)


def read_volume(
    source: Source,
    choices: Choices | None = None,
    series: str | None = None,
    hashed: Callable[[str], str] | None = None,
) -> MetaTensor:
    """Display intensities of a DICOM volume; arguments and refusals as in :func:`read_units` and ``dicom.to_tensor``.

    Returns:
        (1, depth, rows, columns) float32 in [0, 1], padding 0, with ``affine``. Its ``meta`` holds the keys of
        ``facts.NO_FACTS``, the facts of the header being those of the first slice along the normal.
    """
    choices = choices or Choices()
    planes, affine = located(source, choices, series)
    slices = [dicom.to_tensor(stored, header, choices, k, hashed) for stored, header, k in decoded(planes, choices)]
    facts = _common(planes, [{key: one.meta[key] for key in NO_FACTS} for one in slices])
    image, affine = oriented(torch.cat([one.as_tensor() for one in slices]).numpy(), affine)
    facts |= {"rows": image.shape[1], "columns": image.shape[2]}
    meta = facts | {MetaKeys.SPACE: SpaceKeys.RAS}
    return MetaTensor(torch.from_numpy(image)[None], affine=torch.from_numpy(affine), meta=meta)


class VolumeReader(ImageReader):  # type: ignore[misc]  # monai has no types
    """MONAI reader of volumes: (depth, rows, columns) float32 in [0, 1], from DICOM or NIfTI, told apart by content.

    A NIfTI gives what the DICOM series gives of which it was made, array and affine. Its unsigned integers are divided
    by their type's maximum, floats in [0, 1] stand; other values take the bundle's ``hu_window`` or ``intensity``. The
    metadata are those of ``FilmReader``, and ``affine``.

    Args:
        choices: what the bundle decides.
        series: SeriesInstanceUID to take where a folder holds several.
        hashed: how identifiers are hashed for the metadata; None states none.

    Raises:
        DicomError, ImageError: by ``get_data``, in one line naming the field.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged("image", reader=VolumeReader(Choices(hu_window=(40, 400))), ensure_channel_first=True)
    """

    def __init__(
        self,
        choices: Choices | None = None,
        series: str | None = None,
        hashed: Callable[[str], str] | None = None,
    ) -> None:
        self.choices, self.series, self.hashed = choices or Choices(), series, hashed

    def verify_suffix(self, filename: Source) -> bool:
        """Any: the content decides, in ``get_data``."""
        return True

    def read(self, data: Source, **kwargs: Any) -> tuple[Path, ...]:
        """Return the paths, unread: an error raised here would make LoadImage try MONAI's own readers."""
        return tuple(Path(path) for path in ensure_tuple(data))

    def get_data(self, img: tuple[Path, ...]) -> tuple[Volume, dict[str, Any]]:
        """Read one volume; (depth, rows, columns) float32 in [0, 1], and its metadata."""
        with refusing(img[0]):
            image, affine, facts = self._volume(img)
            check_pixels(image, img[0])
        meta: dict[str, Any] = {f"film_{key}": fact for key, fact in facts.items()}
        meta |= {MetaKeys.AFFINE: affine, MetaKeys.ORIGINAL_AFFINE: affine.copy(), MetaKeys.SPACE: SpaceKeys.RAS}
        return image, meta | {
            MetaKeys.SPATIAL_SHAPE: np.array(image.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),  # MONAI's "no channel"
        }

    def _volume(self, paths: tuple[Path, ...]) -> tuple[Volume, Floats, Facts]:
        if len(paths) == 1 and paths[0].is_file() and _is_nifti(paths[0]):
            image, affine, window = _nifti(paths[0], self.choices)
            shape: Facts = {"rows": image.shape[1], "columns": image.shape[2]}
            return image, affine, dict(NO_FACTS) | shape | {"window": window, "format": "NIfTI"}
        tensor = read_volume(paths, self.choices, self.series, self.hashed)
        facts: Facts = {key: tensor.meta[key] for key in NO_FACTS}
        return tensor.as_tensor()[0].numpy(), tensor.affine.numpy(), facts | {"format": "DICOM"}


def oriented(array: npt.NDArray[Any], affine: Floats) -> tuple[npt.NDArray[Any], Floats]:
    """Permute and flip three axes so that they run most nearly to the superior, posterior and left, with the affine.

    SimpleITK does it. It takes the affine from here and not from files, where it would put identity, 0 and 1 mm for
    what is missing.

    Example:
        >>> array, affine = oriented(np.zeros((2, 3, 4)), np.eye(4))  # from axes to the right, anterior and superior
        >>> array.shape, affine[:3, 3].tolist()
        ((4, 3, 2), [1.0, 2.0, 0.0])
    """
    lps = orientation_ras_lps(affine)
    axes = lps[:3, 2::-1]  # of columns, rows and slices: ITK's x, y and z
    spacing = np.linalg.norm(axes, axis=0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(lps[:3, 3])
    image.SetDirection((axes / spacing).ravel())
    turned = sitk.DICOMOrient(image, "LPS")
    lps = np.eye(4)
    lps[:3, 2::-1] = np.reshape(turned.GetDirection(), (3, 3)) * turned.GetSpacing()
    lps[:3, 3] = turned.GetOrigin()
    return sitk.GetArrayFromImage(turned), orientation_ras_lps(lps)


def _common(planes: list[Plane], each: list[Facts]) -> Facts:
    """Facts of the first slice, and what was decided for all."""
    for plane, facts in zip(planes, each, strict=True):
        if facts["crop"] or facts["mirrored"]:
            raise plane.refuse("ImagePositionPatient", "not that of the cropped or mirrored slice; read it as a film")
        if facts["window"] != each[0]["window"]:
            cure = "differs between slices; name the bundle's own range: intensity, and voi 'intensity'"
            raise plane.refuse("WindowCenter", cure)
        if str(facts["window"]).startswith("percentiles"):
            raise plane.refuse("WindowCenter", "not used, and percentiles would be each slice's own; set a range")
    rescale = {str(facts["rescale"]) for facts in each}
    together: Facts = {"padding": any(facts["padding"] for facts in each)}
    return each[0] | together | ({"rescale": "differs by slice"} if len(rescale) > 1 else {})


# NIfTI


def _is_nifti(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1024)
    return head.startswith(b"\x1f\x8b") or nifti_class(head) is not None


def _nifti(path: Path, choices: Choices) -> tuple[Volume, Floats, str]:
    """Image, affine and window, by MONAI's NibabelReader, whose own ``read`` would go by the suffix."""
    with path.open("rb") as file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=file) if packed else file
        kind = nifti_class(stream.read(1024))
        if kind is None:
            raise _refuse(path, "format", "gzip, but not of a NIfTI; give a DICOM series or NIfTI")
        stream.seek(0)
        image = kind.from_stream(stream)
        _check_nifti(image, path, choices)
        reader = NibabelReader()
        reader.filenames = (path,)
        array, meta = reader.get_data(image)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array, affine = oriented(array.reshape(array.shape[:3]).T, meta[MetaKeys.AFFINE][:, [2, 1, 0, 3]])
    scale, window = _scale(array, path, choices)
    return np.stack([scale(plane).astype(np.float32) for plane in array]), affine, window


def _check_nifti(image: Any, path: Path, choices: Choices) -> None:
    shape, datatype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or min(shape[:3]) < 2 or any(size != 1 for size in shape[3:]):
        raise _refuse(path, "dim", f"{shape} is not one volume; give three dimensions")
    if np.prod(shape, dtype=np.float64) > choices.max_pixels:
        raise _refuse(path, "dim", f"{shape} is over {choices.max_pixels} voxels; raise max_pixels or make it smaller")
    if datatype.kind not in "iuf":
        raise _refuse(path, "datatype", f"{datatype} is neither whole numbers nor floats; convert it")
    if image.header["qform_code"] == 0 and image.header["sform_code"] == 0:
        raise _refuse(path, "sform_code", "states no orientation, so left may be right; write the affine into it")


def _scale(array: npt.NDArray[Any], path: Path, choices: Choices) -> tuple[Callable[[npt.NDArray[Any]], Floats], str]:
    """What takes the values to [0, 1], and its name: the type's maximum, the identity, or the bundle's window."""
    if array.dtype.kind == "u" or (array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1):
        return (lambda plane: unit(plane, path)), ""
    hounsfield, intensity = choices.hu_window, choices.intensity
    if (hounsfield is None) == (intensity is None):
        cure = "has no full scale; save as unsigned or in [0, 1], or name either hu_window or intensity"
        raise _refuse(path, "datatype", f"{array.dtype} {cure}")
    if hounsfield is not None:
        centre, width = hounsfield
        return (
            lambda plane: linear_exact(plane.astype(np.float64), centre, width)
        ), f"{centre:g}/{width:g} HU of the bundle"
    ((name, (low, high)),) = (intensity or {}).items()
    window = f"{name} {low:g}..{high:g} of the bundle"
    if name == "percentiles":
        low, high = np.percentile(array, [low, high])
        if not low < high:
            raise _refuse(path, "pixels", "the percentiles of its values are one, or NaN; leave the image out")
    return (lambda plane: np.clip((plane.astype(np.float64) - low) / (high - low), 0, 1)), window


def _refuse(path: Path, field: str, cure: str) -> ImageError:
    return ImageError(one_line(path, field, cure))
