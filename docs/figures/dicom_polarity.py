"""One generated film in two encodings, as five readers show it.

    python docs/figures/dicom_polarity.py docs/images/dicom_polarity.png

The film is a phantom of ``rtda data phantom``; no patient.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813
from matplotlib.figure import Figure
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_voi_lut
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from rtda.pipeline.data.phantom import BRIGHTEST, Phantom, render
from rtda.transforms.reader import FilmReader

Picture = npt.NDArray[np.floating]
MAXIMUM, CENTRE, WIDTH = 4095, 1900, 1400  # of 12 bits; the window of the MONOCHROME2 film
ENCODINGS = {"MONOCHROME2": "IDENTITY", "MONOCHROME1": "INVERSE"}
"""Photometric interpretation -> the Presentation LUT Shape that restates it."""
INK, RIGHT, WRONG = "#22252b", "#2a7f62", "#b5473c"


def exposed() -> npt.NDArray[np.uint16]:
    """Stored values of a MONOCHROME2 film: anatomy in a third of the range, the side marker at the end of it."""
    image = render(Phantom(films=40, size=240)).images[3]
    return np.where(image > BRIGHTEST - 0.05, MAXIMUM, 1200 + 1900 * image).astype(np.uint16)


def write_film(path: Path, stored: npt.NDArray[np.uint16], photometric: str) -> Path:
    """The film as DX, its window with it."""
    inverse = photometric == "MONOCHROME1"
    film = Dataset()
    film.SOPClassUID, film.SOPInstanceUID, film.Modality = DigitalXRayImageStorageForPresentation, "2.25.1", "DX"
    film.Rows, film.Columns = stored.shape
    film.SamplesPerPixel, film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 1, 16, 12, 11, 0
    film.PhotometricInterpretation, film.PresentationLUTShape = photometric, ENCODINGS[photometric]
    film.WindowCenter, film.WindowWidth = MAXIMUM - CENTRE + 1 if inverse else CENTRE, WIDTH
    film.PixelData = (MAXIMUM - stored if inverse else stored).tobytes()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.save_as(path, enforce_file_format=True)
    return path


def plain(path: Path) -> Picture:
    """What pydicom decodes."""
    return dcmread(path).pixel_array.astype(float)


def windowed(path: Path) -> Picture:
    """With the window, but the polarity of the file."""
    film = dcmread(path)
    return np.asarray(apply_voi_lut(film.pixel_array, film), float)


def simpleitk(path: Path) -> Picture:
    """What SimpleITK reads: MONOCHROME1 inverted, no window."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0].astype(float)


def twice(path: Path) -> Picture:
    """With the window, and inverted by each of the two fields that say so."""
    film, shown = dcmread(path), windowed(path)
    for field in (film.PhotometricInterpretation, film.PresentationLUTShape):
        shown = -shown if field in ("MONOCHROME1", "INVERSE") else shown
    return shown


def ours(path: Path) -> Picture:
    """With the window, and inverted once."""
    return FilmReader().get_data((path,))[0].astype(float)


READERS: dict[str, Callable[[Path], Picture]] = {
    "pydicom's pixel_array,\nMONAI's PydicomReader": plain,
    "pixel_array,\nthen apply_voi_lut": windowed,
    "SimpleITK\n": simpleitk,
    "window, then inverted by\nboth fields that say so": twice,
    "rtda\n": ours,
}


def drawn(folder: Path) -> Figure:
    """Two encodings (rows) by five readers (columns), each stretched to its own extremes, as many pipelines do."""
    figure = Figure(figsize=(11, 5.1), layout="constrained")
    panels, stored = figure.subplots(len(ENCODINGS), len(READERS)), exposed()
    truth = np.clip((stored - (CENTRE - 0.5)) / (WIDTH - 1) + 0.5, 0, 1)  # PS3.3 C.11.2.1.2.1
    for row, photometric in zip(panels, ENCODINGS, strict=True):
        path = write_film(folder / photometric, stored, photometric)
        for axes, (name, read) in zip(row, READERS.items(), strict=True):
            shown = read(path)
            axes.imshow(shown, cmap="gray", interpolation="bilinear")
            verdict = judged(shown, truth)
            colour = RIGHT if verdict == "right" else WRONG
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(verdict, color=colour, fontsize=10)
            for edge in axes.spines.values():
                edge.set(color=colour, linewidth=2.5)
            if photometric == "MONOCHROME2":
                axes.set_title(name, fontsize=10, color=INK)
        row[0].set_ylabel(f"{photometric},\nPresentationLUTShape {ENCODINGS[photometric]}", color=INK, fontsize=9)
    return figure


def judged(shown: Picture, truth: Picture) -> str:
    """Whether bright is bright, and whether the window was applied: without it there is little contrast left."""
    stretched = (shown - shown.min()) / np.ptp(shown)
    turned, flat = np.corrcoef(shown.ravel(), truth.ravel())[0, 1] < 0, stretched.std() < 0.75 * truth.std()
    return ", ".join(["inverted"] * bool(turned) + ["no window"] * bool(flat)) or "right"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        drawn(Path(folder)).savefig(sys.argv[1], dpi=100, pil_kwargs={"optimize": True})
