"""Speed and memory of the DICOM reader, beside plain pydicom with the same steps and beside MONAI's PydicomReader.

    OMP_NUM_THREADS=1 python benchmarks/dicom.py [FOLDER] [--rounds 9]

FOLDER holds DICOM files, by default those of pydicom's wheel; those that all three read are counted. Prints Markdown.
The rounds of the three are interleaved, so that a busy machine slows all alike: trust the ratios. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import torch
from monai.data import PydicomReader
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from rtda.transforms.dicom import read_stored, to_tensor
from rtda.transforms.display import Choices

Reader = Callable[[Path], Any]
HU, UNITS = (40, 400), (-50, 1000)  # windows for CT, and for files that have none
CHOICES = Choices(
    hu_window=HU, intensity={"range": UNITS}, polarity="shape", allow_for_processing=True, allow_rescale_type=True
)
SMALL = 256 * 256  # pixels
SYNTAXES = (uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)


# The three


def ours(path: Path) -> Any:
    """The reader of training, inference and the deployed application; with facts and as a MetaTensor."""
    return to_tensor(*read_stored(path), CHOICES)


def plain(path: Path) -> npt.NDArray[np.float32]:
    """The same steps on the pixels by pydicom's own functions, without checks and facts; frames by the root alone."""
    header = pydicom.dcmread(path, force=True)
    stored = pixel_array(header)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        stored, bits = apply_color_lut(stored, header), header.RedPaletteColorLookupTableDescriptor[2]
        return (stored / (2**bits - 1) @ [0.299, 0.587, 0.114]).astype(np.float32)
    if header.SamplesPerPixel == 3:
        return (stored / (2**header.BitsStored - 1) @ [0.299, 0.587, 0.114]).astype(np.float32)
    if header.get("Modality") == "CT":
        header.WindowCenter, header.WindowWidth = HU
    elif "WindowCenter" not in header and "VOILUTSequence" not in header:
        header.WindowCenter, header.WindowWidth = sum(UNITS) / 2, UNITS[1] - UNITS[0]
    y = apply_voi_lut(apply_modality_lut(stored, header), header)
    low, high = 0, 2**header.BitsStored - 1  # enough for the time that it takes
    y = (y - low) / (high - low)
    return (1 - y if header.PhotometricInterpretation == "MONOCHROME1" else y).clip(0, 1).astype(np.float32)


def monai(path: Path) -> npt.NDArray[Any]:
    """As LoadImage calls it: the rescale alone, no window, no polarity; with metadata."""
    reader = PydicomReader()
    return reader.get_data(reader.read(str(path)))[0]


READERS: tuple[Reader, ...] = (ours, plain, monai)


def seconds(reader: Callable[..., Any], *args: Any) -> float:
    """Time of one call."""
    start = time.perf_counter()
    reader(*args)
    return time.perf_counter() - start


def reads(path: Path) -> bool:
    """Whether all three read it; this also warms them."""
    try:
        return all(reader(path) is not None for reader in READERS)
    except Exception:  # each refuses in its own way
        return False


# The tables


def speed(paths: Sequence[Path], rounds: int) -> list[list[str]]:
    """Files per second, and the ratios of each round and of each file's median."""
    times = np.array([[[seconds(reader, path) for reader in READERS] for path in paths] for _ in range(rounds)])
    sizes = [pydicom.dcmread(path, specific_tags=["Rows", "Columns"], force=True) for path in paths]
    small = np.array([size.Rows * size.Columns <= SMALL for size in sizes])
    table = []
    for name, chosen in (("all", small | True), (f"over {SMALL} pixels", ~small), (f"up to {SMALL}", small)):
        if not chosen.any():
            continue
        total, by_file = times[:, chosen].sum(1), np.median(times[:, chosen], 0)
        rate = np.median(chosen.sum() / total, 0)
        ratios = [spread(total[:, 0] / total[:, k]) for k in (1, 2)]
        table.append(
            [f"{name}: {chosen.sum()}", *(f"{one:.0f}" for one in rate), *ratios, spread(by_file[:, 0] / by_file[:, 1])]
        )
    return table


def spread(ratios: npt.NDArray[np.float64] | Sequence[float]) -> str:
    """Least, median and greatest."""
    return f"{min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"


def peaks(paths: Sequence[Path]) -> list[list[str]]:
    """Peak of Python's and NumPy's memory in a call, as multiples of the float32 result."""
    table = []
    for name, reader in (("ours", ours), ("plain pydicom", plain), ("PydicomReader", monai)):
        multiples = [traced(reader, path)[0] / (4 * np.prod(ours(path).shape)) for path in paths]
        table.append([name, spread(multiples)])
    return table


def traced(reader: Reader, path: Path) -> tuple[int, Any]:
    """Peak in bytes, and the result."""
    tracemalloc.start()
    try:
        result = reader(path)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def frames(paths: Sequence[Path], rounds: int) -> list[list[str]]:
    """The last frame alone against all frames, of every file that has several."""
    table = []
    for path in paths:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        count = int(header.get("NumberOfFrames") or 1)
        if count < 4:
            continue
        pairs = [(seconds(one_frame, path, count - 1), seconds(ours, path)) for _ in range(rounds)]
        name = uid.UID(header.file_meta.get("TransferSyntaxUID", "unknown")).name
        size = f"{count} x {header.Rows} x {header.Columns}"
        table.append([size, name, f"{1 / count:.3f}", spread([one / every for one, every in pairs])])
    return table


def one_frame(path: Path, frame: int) -> Any:
    """A frame as an item of a data list."""
    return to_tensor(*read_stored(path, frame), CHOICES, frame)


# One film, in a process of its own


def film(path: Path, syntax: str, rows: int, columns: int) -> Path:
    """Write a 12-bit film of smooth shades and noise."""
    header = pydicom.Dataset()
    header.SOPClassUID, header.Modality = uid.DigitalXRayImageStorageForPresentation, "DX"
    y, x = np.mgrid[:rows, :columns]
    shades = 2000 + 1500 * np.sin(x / 300) * np.cos(y / 400)
    pixels = (shades + np.random.default_rng(0).normal(0, 20, (rows, columns))).clip(0, 4095).astype(np.uint16)
    header.set_pixel_data(pixels, "MONOCHROME2", 12)
    if uid.UID(syntax).is_encapsulated:
        header.compress(syntax, generate_instance_uid=False)
    header.save_as(path, enforce_file_format=True)
    return path


def measured(path: Path, small: Path) -> dict[str, float]:
    """In a fresh process: seconds, and multiples of the float32 result; ``small`` loads the decoder before."""
    ours(small)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present
    before = resident()["VmRSS"]
    start = time.perf_counter()
    result = 4 * ours(path).numel()
    taken, peak = time.perf_counter() - start, resident()["VmHWM"] - before
    return {"seconds": taken, "resident": peak / result, "traced": traced(ours, path)[0] / result}


def resident() -> dict[str, int]:
    """Bytes of this process in memory, at present (VmRSS) and at most (VmHWM)."""
    found = re.findall(r"(VmHWM|VmRSS):\s+(\d+)", Path("/proc/self/status").read_text())
    return {name: 1024 * int(size) for name, size in found}


def films() -> list[list[str]]:
    """Peak memory of one large film by transfer syntax."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for syntax in SYNTAXES:
            large = film(Path(folder, "large.dcm"), syntax, 3000, 2400)
            small = film(Path(folder, "small.dcm"), syntax, 64, 64)
            done = subprocess.run(
                [sys.executable, __file__, "--measure", large, small], capture_output=True, text=True, check=True
            )
            found = json.loads(done.stdout)
            size = f"{large.stat().st_size / 2**20:.1f}"
            table.append([syntax.name, size, *(f"{found[key]:.2f}" for key in ("seconds", "traced", "resident"))])
    return table


def show(title: str, head: Sequence[str], table: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in table:
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(get_testdata_file("MR_small.dcm")).parent)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the files
    logging.disable()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measured(*options.measure)))
        return
    paths = [path for path in sorted(options.folder.rglob("*")) if path.is_file() and reads(path)]
    print(f"{len(paths)} files, {options.rounds} rounds; ratios are least / median / greatest.")
    head = ["files", "ours, files/s", "plain", "PydicomReader", "time ours/plain by round", "ours/PydicomReader"]
    show("Speed", [*head, "ours/plain by file"], speed(paths, options.rounds))
    show("Peak of Python's and NumPy's memory in a call / float32 result", ["reader", "by file"], peaks(paths))
    show("One frame / all frames", ["frames", "encoding", "1/frames", "time"], frames(paths, options.rounds))
    head = ["encoding", "file, MiB", "seconds", "peak by tracemalloc / result", "peak of resident memory / result"]
    show("A 12-bit film of 3000 x 2400", head, films())


if __name__ == "__main__":
    main()
