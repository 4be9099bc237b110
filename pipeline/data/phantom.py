"""A synthetic cohort of chest-like films as real DICOM files, for demonstrations and tests without patient data.

Each film is a body with two lungs, ribs, a mediastinum, soft texture, vessels, exposure, contrast and noise of its own.
The class "lesion" adds one smooth nodule within a lung. The nodule's own ℓ2 norm in the [0, 1] image is ``3 * radius``:
a lesion weaker than ε could be erased by an attack, and nobody could classify it robustly. Films of both classes have
small vessel cross-sections in the lungs and a side marker of lead in an upper corner, which is brighter than any
nodule, so that neither the mean nor the brightest pixel tells the classes apart.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from ..files import writing
from ..progress import progress
from .build import make_splits, write_list
from .lists import PUBLIC, hashed

Images = npt.NDArray[np.float64]
MAXIMUM = 4095  # 12 bits
BRIGHTEST = 0.98  # of a background: what the side marker has
VERSION = 2  # of what is drawn and written: raise it with any change, or finished cohorts of the old form are reused
SITES = (("site-a", "Phantom Works"), ("site-b", "Synthetic Imaging"))


@dataclass(frozen=True)
class Phantom:
    """What a cohort is made from; the same values make the same bytes.

    Args:
        films: number of films, about two a patient.
        size: rows and columns.
        radius: ε at which the lesion shall remain visible; its ℓ2 norm is ``3 * radius``, in intensity units.
        seed: of everything random.

    Raises:
        ValueError: too few films to have both classes in every split, too few pixels for a nodule, or no radius.
    """

    films: int = 1600
    size: int = 64
    radius: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.films < 40:
            raise ValueError(f"films: {self.films} do not give every split both classes; make at least 40")
        if self.size < 16:
            raise ValueError(f"size: a nodule needs films of at least 16 x 16 pixels, not {self.size}")
        if not self.radius > 0:
            raise ValueError(f"radius: {self.radius} is not above 0; give ε in intensity units")


@dataclass(frozen=True)
class Cohort:
    """Films as arrays: ``images`` (N, size, size) in [0, 1], ``lesions`` what was added, ``labels``, ``patients``."""

    images: Images
    lesions: Images
    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.int64]


def render(phantom: Phantom) -> Cohort:
    """Make the films without writing them.

    Returns:
        images float64 (N, size, size) in [0, 1]; lesions of the same shape, ℓ2 norm ``3 * radius`` where the label is 1
        and 0 elsewhere; labels 0 or 1; patient numbers. A patient's films share anatomy, label and site.

    Raises:
        ValueError: the radius is so large that lesions would leave [0, 1]; clipped, they would be weaker than stated.

    Source: the factor 3 is this project's; that a lesion must exceed ε holds for any classifier.

    Example:
        >>> cohort = render(Phantom(films=40))
        >>> cohort.images.shape, bool(cohort.lesions[cohort.labels == 0].any())
        ((40, 64, 64), False)
        >>> float(np.linalg.norm(cohort.lesions[cohort.labels == 1][0]).round(6))
        0.75
    """
    generator = np.random.default_rng(phantom.seed)
    patients = _patients(phantom.films, generator)
    first = np.searchsorted(patients, np.arange(patients.max() + 1))
    labels = generator.permuted(np.arange(patients.max() + 1) % 2)[patients]
    anatomy, lung = _anatomy(len(first), phantom.size, generator)
    films = anatomy[patients] + _vessels(lung[patients], phantom.size, generator)
    backgrounds = _expose(films + _markers(len(films), phantom.size, generator), generator)
    lesions = _nodules(lung[patients], phantom.size, generator)
    lesions *= 3 * phantom.radius / np.linalg.norm(lesions, axis=(1, 2), keepdims=True)
    lesions *= labels[:, None, None]
    images = backgrounds + lesions
    if images.max() > 1:
        raise ValueError(f"radius: at {phantom.radius} lesions would be clipped at this size; make it smaller")
    return Cohort(images, lesions, labels.astype(np.int64), patients)


def build(out_dir: Path, phantom: Phantom, age_group: Callable[[str], str]) -> Path:
    """Write the cohort as DICOM files and a data list; returns the list ``out_dir/phantom.json``.

    A finished cohort of the same values is used again. Another is written beside it and then takes its place, so that
    what is there stands until all of the new one is on the disk. Of the patients 32 % are test and, of the others, 15 %
    validation: 517, 168 and 915 films by default. ``out_dir/films`` belongs to the cohort: numbered films of a larger
    one before it are removed.

    Args:
        out_dir: folder of the cohort.
        phantom: what it is made from.
        age_group: of an Age String (PS3.5 section 6.2), as the reader of the films makes it.

    Raises:
        ValueError: as :func:`render`.
        OSError: a file cannot be written; the message names it, and the cohort before still stands.
    """
    out = out_dir / "phantom.json"
    values = dataclasses.asdict(phantom) | {"version": VERSION}
    if _made_from(out) == values:
        return out
    cohort = render(phantom)
    facts = {
        "name": "phantom",
        "description": "synthetic chest-like films; no patient",
        "licence": "Apache-2.0",
        "source": "rtda data phantom",
        "identity": "public",
        "phantom": values,
    }
    with _beside(out) as made:
        films = zip(progress(range(phantom.films), "films"), _write(cohort, phantom, made, age_group), strict=True)
        items = [item for _, item in films]
        rule = make_splits(items, {"test": 0.32, "validation": 0.15}, phantom.seed)
        write_list(items, ["no lesion", "lesion"], made / out.name, facts | {"split_rule": rule})
        _put_in_place(made, out)
    return out


def _made_from(out: Path) -> Any:
    """The values of the cohort that a list finishes; none if there is no such list, or it is damaged."""
    try:
        return json.loads(out.read_text(encoding="utf-8"))["phantom"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A temporary folder in that of ``out``: on its disk, so that to move is to rename."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        made = TemporaryDirectory(prefix=".phantom-", dir=out.parent, ignore_cleanup_errors=True)
    with made as folder:
        yield Path(folder)


def _put_in_place(made: Path, out: Path) -> None:
    """Rename films and list, which needs no space; the list goes first and comes last: a mixture is never finished."""
    films = out.with_name("films")
    with writing(out):
        out.unlink(missing_ok=True)
        films.mkdir(exist_ok=True)
        for film in films.glob("[0-9][0-9][0-9][0-9][0-9].dcm"):
            film.unlink()
        for film in (made / "films").iterdir():
            film.rename(films / film.name)
        (made / out.name).rename(out)


def _patients(films: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Patient number of each film, ascending; one to four films a patient."""
    counts = generator.integers(1, 5, size=films)
    return np.repeat(np.arange(films), counts)[:films]


def _grid(size: int) -> tuple[Images, Images]:
    """Row and column coordinates in [-1, 1], shapes (size, 1) and (1, size)."""
    line = (np.arange(size) + 0.5) / size * 2 - 1
    return line[:, None], line[None, :]


def _disc(y: Images, x: Images, softness: float) -> Images:
    """1 inside the unit ellipse of (y, x), 0 outside, with a soft edge."""
    return 1 / (1 + np.exp((np.hypot(y, x) - 1) / softness))


def _anatomy(n: int, size: int, generator: np.random.Generator) -> tuple[Images, Images]:
    """Noise-free backgrounds of n patients, and their lung masks."""
    y, x = _grid(size)

    def varied(low: float, high: float) -> Images:
        return generator.uniform(low, high, size=(n, 1, 1))

    width, height, tilt = varied(0.28, 0.36), varied(0.62, 0.75), varied(-0.05, 0.05)
    body = _disc((y - 0.2) / 1.25, x / varied(0.82, 0.95), 0.05)
    left = _disc((y + tilt) / height, (x + 0.42) / width, 0.08)
    right = _disc((y - tilt) / height, (x - 0.42) / width, 0.08)
    lung = np.maximum(left, right)
    ribs = np.cos((y + 0.35 * np.abs(x) + varied(0, 1)) * np.pi * varied(3.2, 4.2)) * lung
    heart = _disc((y - 0.3) / 0.35, (x - varied(0.02, 0.12)) / 0.3, 0.15)
    texture = _smooth(generator.normal(size=(n, size, size)), 5)
    image = 0.12 + 0.5 * body - 0.28 * lung + 0.02 * ribs + 0.08 * heart + 0.012 * texture
    return image, lung


def _smooth(noise: Images, width: int) -> Images:
    """Box-filtered twice in both directions, of unit variance."""
    for axis in (1, 2, 1, 2):
        noise = np.add.reduce([np.roll(noise, shift, axis) for shift in range(-width, width + 1)])
    smooth: Images = noise / noise.std()
    return smooth


def _centres(lung: Images, count: int, generator: np.random.Generator) -> Iterator[tuple[Images, Images]]:
    """Random points well within the lungs, as coordinates of shape (N, 1, 1)."""
    n, size, _ = lung.shape
    y, x = _grid(size)
    inside = np.where(lung > 0.8, 1.0, 0.0).reshape(n, -1)
    for _ in range(count):
        pixel = (inside * generator.random(inside.shape)).argmax(1)
        yield y[pixel // size, 0][:, None, None], x[0, pixel % size][:, None, None]


def _vessels(lung: Images, size: int, generator: np.random.Generator) -> Images:
    """Small bright cross-sections in every film: the distractor that a nodule differs from by its width."""
    y, x = _grid(size)
    total = np.zeros_like(lung)
    for cy, cx in _centres(lung, 6, generator):
        sigma = generator.uniform(0.02, 0.035, size=(len(lung), 1, 1))
        height = generator.uniform(0.02, 0.05, size=(len(lung), 1, 1))
        total += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))
    return total


def _markers(n: int, size: int, generator: np.random.Generator) -> Images:
    """The lead letter that names the side, in an upper corner outside the body: saturated in every film."""
    y, x = _grid(size)

    def varied(low: float, high: float) -> Images:
        return generator.uniform(low, high, size=(n, 1, 1))

    side = generator.choice([-1.0, 1.0], size=(n, 1, 1))
    return _disc((y + varied(0.78, 0.88)) / varied(0.06, 0.09), (x - side * varied(0.78, 0.88)) / 0.06, 0.1)


def _expose(images: Images, generator: np.random.Generator) -> Images:
    """Contrast, exposure and noise of each film; all but the marker is so far from 1 that a lesion is not clipped."""
    n = len(images)
    factor = generator.uniform(0.85, 1.0, size=(n, 1, 1))
    offset = generator.uniform(-0.02, 0.02, size=(n, 1, 1))
    noise = generator.uniform(0.002, 0.006, size=(n, 1, 1)) * generator.normal(size=images.shape)
    return np.clip(0.42 + factor * (images - 0.42) + offset + noise, 0.02, BRIGHTEST)


def _nodules(lung: Images, size: int, generator: np.random.Generator) -> Images:
    """One smooth nodule within the lungs of every film, of any norm."""
    y, x = _grid(size)
    ((cy, cx),) = _centres(lung, 1, generator)
    sigma = generator.uniform(0.03, 0.042, size=(len(lung), 1, 1))
    return np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))


def _write(
    cohort: Cohort, phantom: Phantom, out_dir: Path, age_group: Callable[[str], str]
) -> Iterator[dict[str, Any]]:
    """Write every film and yield its item of the data list."""
    with writing(out_dir / "films"):
        (out_dir / "films").mkdir()
    generator = np.random.default_rng([phantom.seed, 1])
    n = int(cohort.patients.max()) + 1
    site, sex = generator.integers(2, size=n), generator.integers(2, size=n)
    age = generator.integers(18, 95, size=n)
    for i, (image, patient) in enumerate(zip(cohort.images, cohort.patients, strict=True)):
        name = f"films/{i:05d}.dcm"
        who = (int(patient), *SITES[site[patient]], "MF"[sex[patient]], int(age[patient]))
        facts = _Facts(i, *who, projection=("PA", "AP")[i % 2])
        header = _header(facts, phantom)
        _put_pixels(header, image, inverted=bool(generator.integers(2)), window=bool(generator.integers(2)))
        with writing(out_dir / name):
            header.save_as(out_dir / name, enforce_file_format=True)
        yield {
            "image": name,
            "label": int(cohort.labels[i]),
            "patient_id": hashed(PUBLIC, header.PatientID),
            "image_id": hashed(PUBLIC, header.SOPInstanceUID),
            "site": facts.site,
            "sex": facts.sex,
            "age_group": age_group(header.PatientAge),
            "projection": facts.projection,
            "manufacturer": facts.manufacturer,
            "split": None,
        }


@dataclass(frozen=True)
class _Facts:
    number: int
    patient: int
    site: str
    manufacturer: str
    sex: str
    age: int
    projection: str


def _header(facts: _Facts, phantom: Phantom) -> FileDataset:
    """A CR header (PS3.3 A.2) with identifiers derived from the seed and without dates."""
    uid = _uid(phantom, f"image {facts.number}")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ComputedRadiographyImageStorage, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = ComputedRadiographyImageStorage, uid, "CR"
    header.PatientID, header.PatientName = f"PHANTOM-{facts.patient:05d}", "Phantom^Synthetic"
    header.PatientBirthDate, header.PatientSex, header.PatientAge = "", facts.sex, f"{facts.age:03d}Y"
    header.StudyInstanceUID = _uid(phantom, f"study {facts.patient}")
    header.SeriesInstanceUID = _uid(phantom, f"series {facts.number}")
    header.StudyDate = header.StudyTime = header.AccessionNumber = header.StudyID = header.ReferringPhysicianName = ""
    header.SeriesNumber, header.InstanceNumber = "1", str(facts.number + 1)
    header.Manufacturer, header.InstitutionName = facts.manufacturer, facts.site
    header.BodyPartExamined, header.ViewPosition, header.Laterality = "CHEST", facts.projection, ""
    header.PatientOrientation, header.BurnedInAnnotation = ["L", "F"], "NO"
    return header


def _uid(phantom: Phantom, name: str) -> UID:
    """A UID under the root 2.25 from the cohort's values and a name (PS3.5 B.2).

    pydicom's ``generate_uid(prefix=None, entropy_srcs=…)`` ignores its sources and draws at random.
    """
    number = uuid.uuid5(uuid.NAMESPACE_OID, f"rtda phantom {dataclasses.asdict(phantom)} {name}").int
    return UID(f"2.25.{number}")


def _put_pixels(header: FileDataset, image: Images, *, inverted: bool, window: bool) -> None:
    """12-bit pixels of an image in [0, 1]; MONOCHROME1 stores the complement; a window spans all stored values.

    A LINEAR window of centre 2048 and width 4096 takes a stored value v to v/4095 (PS3.3 C.11.2.1.2.1), as readers do
    without one, and is its own MONOCHROME1 twin: 4095 − 2048 + 1 = 2048.
    """
    stored = np.rint(np.clip(image, 0, 1) * MAXIMUM).astype(np.uint16)
    header.Rows, header.Columns = stored.shape
    header.SamplesPerPixel, header.BitsAllocated, header.BitsStored, header.HighBit = 1, 16, 12, 11
    header.PixelRepresentation = 0
    header.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    header.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    if window:
        header.WindowCenter, header.WindowWidth = "2048", "4096"
    header.PixelData = (MAXIMUM - stored if inverted else stored).tobytes()
