"""Fixtures for all tests: the real images, a writer of small DICOM films, and a tiny cohort with runs on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tensors of tests are small: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real public images: RTDA_DATA, else ../shared/data beside the checkout; skips where there is none."""
    default = Path(__file__).parents[1] / "../shared/data"
    folder = Path(os.environ.get("RTDA_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is no folder; set RTDA_DATA")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Folder of the smallest phantom cohort that trains: 96 films; not to be changed."""
    from rtda.pipeline.data.phantom import Phantom, build
    from rtda.transforms.facts import age_group

    return build(tmp_path_factory.mktemp("data") / "cohort", Phantom(films=96), age_group).parent


@pytest.fixture(scope="session")
def tiny(cohort) -> list[str]:
    """Options of ``rtda train`` for seconds on one core."""
    sizes = {"--image-size": 32, "--batch-size": 16, "--max-epochs": 2, "--precision": "float32"}
    return ["--dataset-dir", str(cohort), *(str(word) for pair in sizes.items() for word in pair)]


@pytest.fixture(scope="session")
def workshop(tiny, tmp_path_factory) -> Path:
    """Folder of ``runs/standard`` and ``runs/rtda``, trained and evaluated, and ``rtda.zip``; not to be changed."""
    from rtda.pipeline.cli import main

    folder = tmp_path_factory.mktemp("workshop")
    with contextlib.chdir(folder):
        for recipe in ("standard", "rtda"):
            assert main(["train", "phantom_rtda", "--recipe", recipe, "--run-name", recipe, *tiny]) == 0
            assert main(["evaluate", f"runs/{recipe}"]) == 0
        assert main(["pack", "runs/rtda", "-o", "rtda.zip"]) == 0
    return folder


@pytest.fixture(scope="session")
def film_header() -> Callable[..., pydicom.Dataset]:
    """Make the header of an unsigned MONOCHROME2 DX film of 8 bits; given fields replace, None leaves out."""
    return _film_header


@pytest.fixture(scope="session")
def write_film() -> Callable[..., Path]:
    """Write pixels (frames, rows, columns, samples; first and last optional) as a DICOM film, given fields in it."""

    def write(path: Path, pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **fields: Any) -> Path:
        colour = fields.get("SamplesPerPixel", 1) == 3
        *frames, rows, columns = pixels.shape[:-1] if colour else pixels.shape
        shape = {"Rows": rows, "Columns": columns, "NumberOfFrames": frames[0] if frames else None}
        header = _film_header(**shape | {"PlanarConfiguration": 0 if colour else None} | fields)
        if syntax == ExplicitVRBigEndian:
            pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
        header.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        header["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = syntax
        header.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture(scope="session")
def make_lut() -> Callable[..., pydicom.Dataset]:
    """Make an item of a LUT sequence: entries as numbers (US) or bytes (OW, then ``count`` says how many they are)."""

    def make(entries: Any, first: int = 0, bits: int = 8, count: int | None = None) -> pydicom.Dataset:
        item = pydicom.Dataset()
        count = len(entries) if count is None else count
        item.add_new("LUTDescriptor", "US", [count % 65536, first % 65536, bits])
        raw = isinstance(entries, bytes)
        item.add_new("LUTData", "OW" if raw else "US", entries if raw else list(entries))
        return item

    return make


def _film_header(**fields: Any) -> pydicom.Dataset:
    bits = fields.get("BitsStored", 8)
    base = {
        "SOPClassUID": pydicom.uid.DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": "1.2.3",
        "Modality": "DX",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "BitsAllocated": 8 if bits <= 8 else 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    }
    header = pydicom.Dataset()
    for field, value in (base | fields).items():
        if value is not None:
            setattr(header, field, value)
    return header
