"""Seconds and memory of a deployed application for each film.

    OMP_NUM_THREADS=1 python benchmarks/application.py

Made DX films of 3000 x 2400 pixels at 12 bits, native, each a study of its own, answered by the chest bundle without
its guard, as made films are unlike those of training. One process has one film and one eleven: what ten more take is
told for each. Prints Markdown.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from rtda.pipeline.delivery.application import run
from rtda.pipeline.delivery.bundle import Bundle, find_bundle
from rtda.pipeline.delivery.export import export

MORE = 10


def write_films(folder: Path, count: int) -> None:
    """Films of noise, a study each."""
    pixels = np.random.default_rng(0).integers(0, 4096, (3000, 2400)).astype("<u2")
    folder.mkdir()
    for number in range(count):
        film = pydicom.Dataset()
        film.file_meta = FileMetaDataset()
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.SOPClassUID = DigitalXRayImageStorageForPresentation
        film.SOPInstanceUID, film.StudyInstanceUID, film.SeriesInstanceUID = (generate_uid() for _ in range(3))
        film.Modality, film.PatientID, film.PhotometricInterpretation = "DX", "made", "MONOCHROME2"
        film.Rows, film.Columns = pixels.shape
        film.SamplesPerPixel, film.PixelRepresentation = 1, 0
        film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
        film.PixelData = pixels.tobytes()
        film.save_as(folder / str(number), enforce_file_format=True)


def unguarded(folder: Path) -> Bundle:
    """A copy of the chest bundle that answers whatever it can read."""
    shutil.copytree(find_bundle("chest_xray_rtda").root, folder)
    metadata = folder / "configs/metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"trained_on": {}}))
    return Bundle(folder)


def measured(films: Path, model: Path, out: Path, result: Any) -> None:
    """Seconds of a run, and the greatest resident memory in MiB."""
    start = time.perf_counter()
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(films, model, out) == 0
    result.put((time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Print the table."""
    context = multiprocessing.get_context("spawn")
    print("| round | first film, s | each further film, s | memory with one film, MiB | with eleven |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = export(unguarded(folder / "chest_xray_rtda"), "ts", folder / "model.ts")
        for count in (1, 1 + MORE):
            write_films(folder / str(count), count)
        for number in range(3):
            found = []
            for count in (1, 1 + MORE):
                result = context.Queue()
                words = (folder / str(count), model, folder / f"out{number}{count}", result)
                process = context.Process(target=measured, args=words)
                process.start()
                found.append(result.get())
                process.join()
            (one, before), (all_, after) = found
            print(f"| {number + 1} | {one:.1f} | {(all_ - one) / MORE:.2f} | {before:.0f} | {after:.0f} |", flush=True)


if __name__ == "__main__":
    main()
