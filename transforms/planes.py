"""Where the slices of a volume lie: found, checked, and sorted by position along their normal.

Never by file name or InstanceNumber. Positions are read from the header and checked before SimpleITK sees them: by
itself it puts identity, 0 and 1 mm where they are missing or damaged. On sound series both agree, which the tests hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.utils import orientation_ras_lps
from monai.utils import ensure_tuple
from pydicom import Dataset

from .dicom import check_policy
from .display import Choices
from .header import DicomError, NotAnImage, numbers, of_frame, one_line, refuse, text, values, whole
from .luts import Floats
from .stored import Stored, check_kind, looks_like_dicom, read_header, read_stored

Source = Path | str | Sequence[Path | str]

TOLERANCE = 0.1  # voxels by which a slice may lie beside its place on the even, untilted grid
ALIKE = {
    "SeriesInstanceUID": "name one of the series",
    "Rows": "leave out what does not belong to the series",
    "Columns": "leave out what does not belong to the series",
    "PixelSpacing": "resample to one spacing",
    "ImageOrientationPatient": "leave out localizers and other stacks",
}
"""Field that all slices share, numbers to 1e-4 (0.05 over 512 pixels) -> what to do where they do not."""


@dataclass(frozen=True)
class Plane:
    """One slice, a file or a frame of it, and the fields that place it: mm and cosines to left, posterior, superior."""

    path: Path
    frame: int
    place: dict[str, tuple[Any, ...]]

    def refuse(self, field: str, cure: str) -> DicomError:
        """The error to raise about this slice."""
        return DicomError(one_line(f"{self.path.name}#frame={self.frame}" if self.frame else self.path, field, cure))


def located(source: Source, choices: Choices, series: str | None = None) -> tuple[list[Plane], Floats]:
    """Slices of one series, sorted along their normal.

    Args:
        source: folder of a series (files that are no images are passed over), its files, or one multi-frame file.
        choices: what the bundle decides.
        series: SeriesInstanceUID to take where there are several.

    Returns:
        The slices, and (4, 4) (slice, row, column, 1) -> mm to the right, anterior and superior.

    Raises:
        DicomError: less than two slices; several series, sizes or orientations; gaps, duplicates or gantry tilt.

    Source: PS3.3 C.7.6.2 (Image Plane Module), C.7.6.16.2.3 (Plane Position Macro).
    """
    passed_over: tuple[type[Exception], ...] = ()
    paths = [Path(path) for path in ensure_tuple(source)]
    if len(paths) == 1 and paths[0].is_dir():
        passed_over = (NotAnImage,)
        paths = [path for path in sorted(paths[0].iterdir()) if path.is_file() and looks_like_dicom(path)]
    planes: list[Plane] = []
    for path in paths:
        try:
            planes += _planes(path, choices, series)
        except passed_over:
            continue
    if len(planes) < 2:
        cure = "one slice is no volume; read it as a film" if planes else "no image of this series; name another"
        raise DicomError(one_line(Path(ensure_tuple(source)[0]), "SeriesInstanceUID", cure))
    _check_alike(planes)
    return _sorted(planes)


def decoded(planes: list[Plane], choices: Choices) -> Iterator[tuple[Stored, Dataset, int]]:
    """Stored values, header and frame of planes in order; a file is decoded once for consecutive planes."""
    path = None
    for plane in planes:
        if plane.path != path:
            path = plane.path
            stored, header = read_stored(path, max_pixels=choices.max_pixels)
        yield stored[plane.frame] if whole(header, "NumberOfFrames", 1) > 1 else stored, header, plane.frame


def _planes(path: Path, choices: Choices, series: str | None) -> list[Plane]:
    header = read_header(path)
    if series is not None and text(header, "SeriesInstanceUID") != series:
        return []
    check_kind(header)
    check_policy(header, choices)
    frames = whole(header, "NumberOfFrames", 1)
    if frames > 1 and len(values(header, "PerFrameFunctionalGroupsSequence")) != frames:
        cure = f"does not say where the {frames} frames lie; read a frame as a film"
        raise refuse(header, "PerFrameFunctionalGroupsSequence", cure)
    return [_plane(of_frame(header, k), path, k) for k in range(frames)]


def _plane(header: Dataset, path: Path, frame: int) -> Plane:
    place: dict[str, tuple[Any, ...]] = {"SeriesInstanceUID": (text(header, "SeriesInstanceUID"),)}
    place |= {field: (whole(header, field),) for field in ("Rows", "Columns")}
    measured = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
    place |= {field: numbers(header, field, count) for field, count in measured.items()}
    plane = Plane(path, frame, place)
    for field in measured:
        if np.isnan(place[field]).any():
            raise plane.refuse(field, "missing or damaged, so the slice has no place; read it as a film")
    if min(place["PixelSpacing"]) <= 0:
        raise plane.refuse("PixelSpacing", "is not above 0; correct the header")
    cosines = np.reshape(place["ImageOrientationPatient"], (2, 3))
    if not np.allclose(cosines @ cosines.T, np.eye(2), atol=1e-3):
        raise plane.refuse("ImageOrientationPatient", "is not two unit vectors at right angles; correct the header")
    return plane


def _check_alike(planes: list[Plane]) -> None:
    first = planes[0]
    for plane in planes:
        for field, cure in ALIKE.items():
            one, other = plane.place[field], first.place[field]
            if one != other and (field == "SeriesInstanceUID" or not np.allclose(one, other, rtol=0, atol=1e-4)):
                raise plane.refuse(field, f"not that of {first.path.name}; {cure}")


def _sorted(planes: list[Plane]) -> tuple[list[Plane], Floats]:
    along, down = np.reshape(planes[0].place["ImageOrientationPatient"], (2, 3))
    axes = np.stack([np.cross(along, down), down, along])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    planes = sorted(planes, key=lambda plane: float(axes[0] @ plane.place["ImagePositionPatient"]))
    positions = np.array([plane.place["ImagePositionPatient"] for plane in planes])
    offsets = (positions - positions[0]) @ axes.T
    _check_grid(planes, offsets)
    lps = np.eye(4)
    lps[:3, :3] = axes.T * [offsets[-1, 0] / (len(planes) - 1), *planes[0].place["PixelSpacing"]]
    lps[:3, 3] = positions[0]
    return planes, orientation_ras_lps(lps)


def _check_grid(planes: list[Plane], offsets: Floats) -> None:
    """Slices must lie one above the other in even steps; offsets in mm along the normal, columns and rows."""
    steps = np.diff(offsets[:, 0])
    usual, near = np.median(steps), int(np.argmin(steps))
    if steps[near] <= TOLERANCE * usual:
        cure = f"also that of {planes[near].path.name}; leave one out, or make phases series of their own"
        raise planes[near + 1].refuse("ImagePositionPatient", cure)
    shifts = np.abs(offsets[:, 1:] / planes[0].place["PixelSpacing"]).max(1)
    if shifts.max() > TOLERANCE:
        cure = f"{shifts.max():.3g} pixels beside the normal of the first slice (gantry tilt); resample the series"
        raise planes[int(np.argmax(shifts))].refuse("ImagePositionPatient", cure)
    even = np.linspace(0, offsets[-1, 0], len(planes))
    if np.abs(offsets[:, 0] - even).max() > TOLERANCE * even[1]:
        far = int(np.argmax(np.abs(steps - usual)))
        cure = f"{steps[far]:.4g} mm from {planes[far].path.name}, others {usual:.4g} mm; find the missing slices"
        raise planes[far + 1].refuse("ImagePositionPatient", cure)
