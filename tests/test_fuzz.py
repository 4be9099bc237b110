"""Damaged DICOM files: read, or refused in one line; never a crash, a hang, or a name in the message."""

import io
import itertools
import json
import logging
import math
import os
import random
import re
import select
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
from fuzz_worker import NEIGHBOUR, OPEN, causes
from rtda.transforms import dicom, stored
from rtda.transforms.display import Choices
from rtda.transforms.header import FRAME_MACROS, DicomError, NotAnImage

WORKER = Path(__file__).with_name("fuzz_worker.py")
WHEEL = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
SERIES = Path(pydicom.data.__file__).parent / "test_files/dicomdirtests/98892001/CT5N"
SINGLE = ("volume", "film", "facts")
PIXELS = re.compile(rb"\xe0\x7f\x10\0|\x7f\xe0\0\x10")  # the tag, in either byte order
PATIENT = "GEHEIM ANNA"  # as a code is written, so that nothing but knowing the codes keeps it from being quoted
FOLDER = "ward-of-anna"  # of the mutated files
SECONDS = 30  # for a file; the slowest sound one takes half a second
START_SECONDS = 300  # for the imports of a worker


def sound(name: str) -> Path:
    return next(path for path in WHEEL if path.name == name)


Mutation = Callable[[bytes, random.Random], bytes]


# Mutations of bytes, of elements and of meaning


def header_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few bytes of the header, where most of the structure is."""
    return flipped(data, draw, 0, min(len(data), 4096))


def any_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few bytes anywhere, so most often in the pixels' code stream."""
    return flipped(data, draw, 0, len(data))


def flipped(data: bytes, draw: random.Random, start: int, stop: int) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 4, 16, 64))):
        changed[draw.randrange(start, stop)] = draw.randrange(256)
    return bytes(changed)


def truncated(data: bytes, draw: random.Random) -> bytes:
    """Cut anywhere, most often within the pixel data."""
    return data[: draw.randrange(draw.choice((1, *[pixels_at(data)] * 3)), len(data))]


def pixels_at(data: bytes) -> int:
    """Where the pixel data begin; 1 where there are none."""
    return max((found.start() for found in PIXELS.finditer(data)), default=1)


def length(data: bytes, draw: random.Random) -> bytes:
    """Another length in front of an element's value: a little wrong, or absurd."""
    at, size = draw.choice(elements(data))
    wide = draw.random() < 0.5
    absurd = (0, 1, 3, 255, 0xFFFE, 0xFFFF) + ((0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF) if wide else ())
    other = draw.choice((draw.choice(absurd), size + draw.choice((-2, -1, 1, 2, 8))))
    field = struct.pack("<I" if wide else "<H", other % 2 ** (32 if wide else 16))
    return replaced(data, at - len(field), field)


def item(data: bytes, draw: random.Random) -> bytes:
    """Another length of an item: of a fragment of the pixels, of their offset table, or in a sequence."""
    at = draw.choice([found.end() for found in re.finditer(rb"\xfe\xff\0\xe0", data)])
    return replaced(data, at, struct.pack("<I", draw.choice((0, 1, 2, 255, draw.randrange(len(data)), 0xFFFFFFFF))))


def vr(data: bytes, draw: random.Random) -> bytes:
    """Another value representation; in an implicit file this changes a length or a tag."""
    at, _ = draw.choice(elements(data))
    other = draw.choice((*pydicom.valuerep.VR, "ZZ")).encode()
    return replaced(data, at - draw.choice((4, 8)), other)


def content(data: bytes, draw: random.Random) -> bytes:
    """Another value of the same length."""
    at, size = draw.choice(elements(data))
    words = (b"NaN", b"1e999", b"-1", b"0", b"\\", b"\\\\\\", b"\xff", b"\x00", b"\x80\x00", b"9", PATIENT.encode())
    size = min(size, 4096)
    return replaced(data, at, (draw.choice(words) * (size + 1))[:size])


def elements(data: bytes) -> list[tuple[int, int]]:
    """Where values stand in a file, and how long they are; a damaged file has at least its own start."""
    try:
        header = pydicom.dcmread(io.BytesIO(data), force=True)
        raw = [header.get_item(tag) for tag in header.keys()]  # noqa: SIM118 - iterating converts
        found = [(one.value_tell, one.length) for one in raw if isinstance(one, pydicom.dataelem.RawDataElement)]
    except Exception:
        found = []
    return [(at, size) for at, size in found if 8 <= at < len(data)] or [(8, 8)]


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def fields(data: bytes, draw: random.Random) -> bytes:
    """Absurd values of one to three fields on which sizes and scales rest."""
    header = pydicom.dcmread(io.BytesIO(data), force=True)
    for field in draw.sample(sorted(ABSURD), draw.choice((1, 2, 3))):
        setattr(header, field, draw.choice(ABSURD[field]))
    return written(header)


ABSURD = {
    "Rows": (0, 1, 3, 4096, 65535),
    "Columns": (0, 1, 3, 4096, 65535),
    "NumberOfFrames": ("0", "-1", "2", "1000", "2147483647"),
    "SamplesPerPixel": (0, 2, 3, 4, 65535),
    "PlanarConfiguration": (0, 1, 7),
    "BitsAllocated": (0, 1, 7, 8, 16, 32, 64, 65535),
    "BitsStored": (0, 1, 8, 12, 16, 17, 65535),
    "HighBit": (0, 7, 15, 65535),
    "PixelRepresentation": (0, 1, 2),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL_422", "YBR_RCT", "CMYK", PATIENT),
    "RescaleSlope": ("0", "-1", "1e38", "1e-38", "1E16"),
    "RescaleIntercept": ("1e38", "-1024"),
    "WindowCenter": (["1e38", "5"], "-1e38", "0.1"),
    "WindowWidth": ("0", "-1", "1e-38", "1e38", ["1", "2"]),
    "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", PATIENT),
    "PixelPaddingValue": (0, 65535),
    "PixelPaddingRangeLimit": (0, 65535),
    "PresentationLUTShape": ("INVERSE", "IDENTITY", PATIENT),
    "RedPaletteColorLookupTableDescriptor": ([0, 0, 16], [1, 0, 8], [65535, 65535, 65535]),
    "RedPaletteColorLookupTableData": (b"", b"\x00\x01" * 3),
    "ModalityLUTSequence": ([], [pydicom.Dataset()]),
    "Modality": ("CT", "MR", "US", "MG", "DX", ""),
}


def places(data: bytes, draw: random.Random) -> bytes:
    """Absurd values of one to three fields that place a slice."""
    header = pydicom.dcmread(io.BytesIO(data), force=True)
    for field in draw.sample(sorted(PLACES), draw.choice((1, 2, 3))):
        setattr(header, field, draw.choice(PLACES[field]))
    return written(header)


PLACES = {
    "PixelSpacing": (["0", "0"], ["1e-38", "1e38"], "-1"),
    "ImagePositionPatient": (["0", "0", "1e38"], ["0", "0", "1e-38"], ["0", "0"]),
    "ImageOrientationPatient": (["0"] * 6, ["1", "0", "0", "1", "0", "0"], ["1e38", "0", "0", "0", "1e38", "0"]),
}


def misplaced(data: bytes, draw: random.Random) -> bytes:
    """The patient's name where codes, numbers or UIDs should stand."""
    header = pydicom.dcmread(io.BytesIO(data), force=True)
    for field in draw.sample(CODES, draw.choice((1, 2))):
        header[field] = pydicom.DataElement(field, "LO", PATIENT)
    return written(header)


CODES = (
    *("PhotometricInterpretation", "PresentationLUTShape", "VOILUTFunction", "RescaleType", "PresentationIntentType"),
    *("Modality", "ImageType", "SOPClassUID", "PatientOrientation", "PixelIntensityRelationship", "BurnedInAnnotation"),
    *("Rows", "NumberOfFrames", "BitsStored", "WindowCenter", "RescaleSlope", "PixelPaddingValue", "VOILUTSequence"),
)


def syntax(data: bytes, draw: random.Random) -> bytes:
    """Another transfer syntax than the pixels have."""
    stated = re.search(rb"\x02\x00\x10\x00UI..[\d.]+\0?", data, re.DOTALL)
    other = draw.choice(pydicom.uid.AllTransferSyntaxes).encode()
    other += b"\0" * (len(other) % 2)
    return data[: stated.start() + 6] + struct.pack("<H", len(other)) + other + data[stated.end() :]


def luts(data: bytes, draw: random.Random) -> bytes:
    """A lookup table of any description, in the root or in functional groups."""
    header = pydicom.dcmread(io.BytesIO(data), force=True)
    table, group = pydicom.Dataset(), pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [draw.choice((0, 1, 4, 65535)) for _ in range(draw.choice((1, 3, 4)))])
    entries = draw.choice((7, [1, 2, 3, 4], []))
    table.add_new("LUTData", *draw.choice((("US", entries), ("OW", b"\x00\x01\x02\x03"))))
    name = draw.choice(("VOILUTSequence", "ModalityLUTSequence"))
    if draw.random() < 0.5:
        setattr(header, name, [table])
    else:
        group.FrameVOILUTSequence = [pydicom.Dataset()]
        setattr(group.FrameVOILUTSequence[0], name, [table])
        header.SharedFunctionalGroupsSequence = [group]
    return written(header)


def nested(data: bytes, draw: random.Random) -> bytes:
    """A sequence in a sequence in a sequence …, in front of the pixels."""
    header = pydicom.dcmread(io.BytesIO(data), force=True)
    pixels = header.get_item("PixelData")
    at = pixels.value_tell - (12 if not header.original_encoding[0] else 8) if pixels is not None else len(data)
    tag = draw.choice((0x00283010, 0x00283000, 0x00186011, 0x52009229, 0x00540220))
    depth = draw.choice((2, 50, 400, 5000))
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + (b"" if header.original_encoding[0] else b"SQ\0\0")
    start += b"\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"  # a sequence and an item, both of undefined length
    stop = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return data[:at] + start * depth + stop * draw.choice((0, depth)) + data[at:]


def written(header: pydicom.Dataset) -> bytes:
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


MUTATIONS: tuple[Mutation, ...] = (
    *(header_bytes, any_bytes, truncated, length, item, vr, content),
    *(fields, fields, fields, places, misplaced, misplaced, syntax, luts, nested),
)


def mutated(path: Path, draw: random.Random) -> tuple[bytes, list[str]]:
    """A file with the patient's name in it and one to three mutations, and which these were."""
    data, names, count = named(path.read_bytes()), [], draw.choice((1, 1, 1, 2, 3))
    for mutation in draw.sample(MUTATIONS, len(MUTATIONS)):
        if len(names) == count:
            break
        try:
            data = mutation(data, draw) or data
            names.append(mutation.__name__)
        except Exception:  # there is nothing to change so, or pydicom can no longer write it
            continue
    return data, names


def named(data: bytes) -> bytes:
    """The same file with our patient's name, where it can be written again."""
    try:
        header = pydicom.dcmread(io.BytesIO(data), force=True)
        header.PatientName = header.PatientID = header.StudyDescription = PATIENT
        return written(header)
    except Exception:
        return data


# The worker, and what it may answer


class Worker:
    """A process that reads files; a dead or silent one is replaced."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds, self.process = seconds, None

    def ask(self, path: Path, way: str = "volume") -> dict[str, str]:
        """The answer of ``fuzz_worker.answer``; outcome ``hang`` or ``crash`` where there is none."""
        if self.process is None:
            self.process = self._start()
            assert self._line(START_SECONDS) == "ready", "the worker does not start"
        try:
            print(json.dumps([str(path), way]), file=self.process.stdin, flush=True)
            return self._line(self.seconds)
        except TimeoutError as error:
            outcome, said = "hang", str(error)
        except (EOFError, BrokenPipeError):
            outcome, said = "crash", f"exit status {self.process.wait()}"
        self.close()
        return {"outcome": outcome, "said": said, "warned": ""}

    def _line(self, seconds: float) -> Any:
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            raise TimeoutError(f"no answer in {seconds} s")
        line = self.process.stdout.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def _start(self) -> subprocess.Popen:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, WORKER], text=True, env=os.environ | one_thread, **pipes)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def fault(answer: dict[str, str], path: Path) -> str:
    """What is wrong with an answer, empty if nothing: an image in [0, 1] or a refusal that names the file alone."""
    said = f"{answer['said']}\n{answer['warned']}"
    if answer["outcome"] not in ("image", "refused"):
        return f"{answer['outcome']}: {answer['said']}"
    if "MemoryError" in said:
        return f"out of memory: {said}"
    if re.search("geheim|anna", said, re.IGNORECASE) or FOLDER in said or str(path.parent.parent) in said:
        return f"says too much: {said}"
    ours = rf"\S+\.(\w+Error|NotAnImage|ForeignFile|VolumeFile): ({path.name}|{NEIGHBOUR}): \w+: "
    if answer["outcome"] == "refused" and not re.match(ours, said):
        return f"does not name the file and a field: {said}"
    if "pixels: not decodable" in said:  # the reader's last resort, for an error of which nobody thought
        return f"no refusal of ours: {said}"
    return ""


def check(files: list[Path], seeds: range, folder: Path, worker: Worker, ways: Sequence[str] = SINGLE) -> None:
    """No fault among mutations of these files that have pixels; told with the seed and mutations that show it again."""
    folder = folder / FOLDER
    folder.mkdir()
    shutil.copy(SERIES / "2062", folder / NEIGHBOUR)
    files = [path for path in files if PIXELS.search(path.read_bytes())]
    found, pictures = [], 0
    for seed in seeds:
        draw = random.Random(seed)
        source = draw.choice(files)
        data, names = mutated(source, draw)
        path = folder / f"{seed}.dcm"
        path.write_bytes(data)
        for way in ways:
            answer = worker.ask(path, way)
            pictures += answer["outcome"] == "image"
            if wrong := fault(answer, path):
                found.append(f"seed {seed}, {source.name}, {' '.join(names)}, {way}: {wrong}")
        path.unlink()
    assert found == []
    assert pictures > len(ways) * len(seeds) / 10, "too few come as far as their pixels"


@pytest.mark.process  # the one worker of this file
def test_damaged_files_of_the_wheel_are_read_or_refused(worker, tmp_path):
    check(WHEEL, range(200), tmp_path, worker)


def test_damaged_slices_of_a_series_are_read_or_refused(worker, tmp_path):
    check([SERIES / "2392"], range(2000, 2300), tmp_path, worker, ["series"])


@pytest.mark.data
def test_damaged_real_files_are_read_or_refused(worker, tmp_path, real_data):
    check(pack(real_data), range(1000, 1200), tmp_path, worker)


@pytest.mark.slow
def test_2000_damaged_files_of_the_wheel_are_read_or_refused(worker, tmp_path):
    check(WHEEL, range(10_000, 12_000), tmp_path, worker)


@pytest.mark.slow
@pytest.mark.data
def test_2000_damaged_real_files_are_read_or_refused(worker, tmp_path, real_data):
    check(pack(real_data), range(20_000, 22_000), tmp_path, worker)


def pack(real_data: Path) -> list[Path]:
    return sorted(path for path in (real_data / "dicom_reader/files").rglob("*") if path.is_file())


# Every field, of every VR: a picture in [0, 1], or a refusal

WRONG = [
    *(("FD", math.nan), ("FD", math.inf), ("FD", -1e300), ("FD", 0.5), ("FD", [math.nan, 1.0]), ("FD", [math.inf] * 3)),
    *(("SL", -(2**31)), ("UL", 2**32 - 1), ("LO", PATIENT), ("LO", ["a", "b"]), ("LO", ["1", "2", "3"]), ("LO", "")),
    *(("OB", b"\1\2\3"), ("OW", b"\1\2"), ("SQ", [pydicom.Dataset()]), ("SQ", [])),
]
SHOWN = (
    *sorted({*CODES, *ABSURD, *FRAME_MACROS} - {"Rows", "Columns", "NumberOfFrames", "BitsStored"}),
    *("LUTDescriptor", "LUTData", "FrameType", "PatientAge", "PixelSpacing", "ImageOrientationPatient", "PatientID"),
    *("ViewCodeSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("RegionSpatialFormat", "RegionDataType", "RegionLocationMinX0", "RegionLocationMaxY1"),
)


@pytest.mark.filterwarnings("ignore:dataset. ")
@pytest.mark.parametrize("kind", ["plain", "window", "LUT", "modality LUT", "CT", "mammogram", "ultrasound", "palette"])
def test_any_field_of_any_vr_gives_a_picture_or_a_refusal(film_header, make_lut, kind):
    pictures, pixels, choices = 0, np.arange(12, dtype=np.uint8).reshape(2, 6), Choices(**OPEN, chest_wall="left")
    for (vr, value), field in itertools.product(WRONG, SHOWN):
        header = film_header(**shown(kind, make_lut))
        holders = [*header.get("VOILUTSequence", []), *header.get("ModalityLUTSequence", [])] if "LUT" in field else []
        holders += header.get("SequenceOfUltrasoundRegions", []) if field.startswith("Region") else []
        for holder in holders or [header]:
            holder[field] = pydicom.DataElement(field, vr, value, validation_mode=pydicom.config.IGNORE)
        try:
            image = dicom.to_tensor(pixels, header, choices).as_tensor()
        except DicomError as error:
            said = f"x.{type(error).__name__}: {error}\n{causes(error)}"
            told = fault({"outcome": "refused", "said": said, "warned": ""}, Path("/ward/anna/dataset"))
        else:
            told = "" if ((image >= 0) & (image <= 1)).all() else "outside [0, 1]"
            pictures += 1
        assert not told, (vr, value, field, told)
    assert pictures > len(WRONG) * len(SHOWN) / 3


def shown(kind: str, make_lut: Callable[..., pydicom.Dataset]) -> dict[str, Any]:
    """Fields of a film that the steps of this kind show."""
    region = pydicom.Dataset()
    region.RegionSpatialFormat = region.RegionDataType = region.RegionLocationMaxY1 = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0, region.RegionLocationMaxX1 = 0, 0, 4
    colours = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    table = {f"{name}Descriptor": [256, 0, 8] for name in colours} | {f"{name}Data": bytes(256) for name in colours}
    return {
        "plain": {"PixelPaddingValue": 3},
        "window": {"WindowCenter": 5, "WindowWidth": 9, "PixelPaddingValue": 3, "PixelPaddingRangeLimit": 4},
        "LUT": {"VOILUTSequence": [make_lut([0, 255])]},
        "modality LUT": {"ModalityLUTSequence": [make_lut([0, 255])]},
        "CT": {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024},
        "mammogram": {"Modality": "MG", "PatientOrientation": ["A", "F"]},
        "ultrasound": {"Modality": "US", "SequenceOfUltrasoundRegions": [region]},
        "palette": {"PhotometricInterpretation": "PALETTE COLOR", **table},
    }[kind]


# What fuzzing found, one by one


def test_a_stream_of_another_size_than_the_header_never_reaches_its_decoder(worker, tmp_path):
    header = pydicom.dcmread(sound("SC_rgb_jpeg_gdcm.dcm"))
    header.Rows = 4096  # GDCM threw across its own Python binding
    header.save_as(tmp_path / "film.dcm")
    answer = worker.ask(tmp_path / "film.dcm")
    assert "film.dcm: PixelData: its stream is damaged or of another size" in answer["said"], answer


def test_a_stream_in_a_larger_container_than_its_decoder_fills(worker, tmp_path):
    header = pydicom.dcmread(sound("SC_rgb_jpeg_gdcm.dcm"))
    header.BitsAllocated = 32  # here too
    header.save_as(tmp_path / "film.dcm")
    answer = worker.ask(tmp_path / "film.dcm")
    assert "film.dcm: PixelData: its stream is damaged or of another size" in answer["said"], answer


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")  # of the film that the test makes
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("PhotometricInterpretation", PATIENT, "film.dcm: PhotometricInterpretation: its value is not read"),
        ("PhotometricInterpretation", "YBR_PARTIAL_420", "'YBR_PARTIAL_420' is not read"),
        ("PresentationLUTShape", PATIENT, "film.dcm: PresentationLUTShape: its value is not IDENTITY or INVERSE"),
        ("VOILUTFunction", PATIENT, "film.dcm: VOILUTFunction: its value is not one of LINEAR"),
        ("RescaleType", PATIENT, "film.dcm: RescaleType: values in a unit of another name"),
    ],
)
def test_a_message_quotes_codes_and_nothing_else(tmp_path, field, value, message):
    header = pydicom.dcmread(sound("MR_small.dcm"))
    if field == "RescaleType":
        header.Modality = "CT"
    setattr(header, field, value)
    header.save_as(tmp_path / "film.dcm")
    with pytest.raises(DicomError) as refused:
        dicom.to_tensor(*dicom.read_stored(tmp_path / "film.dcm"))
    assert message in str(refused.value)
    assert PATIENT not in str(refused.value)


def test_an_unknown_sop_class_is_not_quoted(tmp_path):
    header = pydicom.dcmread(sound("rtplan.dcm"))
    header.get_item("SOPClassUID")
    header["SOPClassUID"] = pydicom.DataElement("SOPClassUID", "LO", PATIENT)
    header.save_as(tmp_path / "plan.dcm")
    with pytest.raises(NotAnImage, match=r"^plan\.dcm: PixelData: no pixel data, no image: of no known kind$"):
        dicom.read_stored(tmp_path / "plan.dcm")


def test_an_unreadable_value_is_not_in_the_chain_of_the_error(tmp_path):
    data = sound("MR_small.dcm").read_bytes()
    at = data.index(b"\x28\x00\x50\x10DS") + 8  # WindowCenter, four bytes
    (tmp_path / "film.dcm").write_bytes(replaced(data, at, b"Anna"))
    with pytest.raises(DicomError, match=r"^film\.dcm: WindowCenter: ") as refused:
        dicom.to_tensor(*dicom.read_stored(tmp_path / "film.dcm"))
    assert "Anna" not in causes(refused.value)


def test_pydicom_says_nothing_of_its_own(tmp_path, caplog, recwarn):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "film.dcm").write_bytes(unended())
    with pytest.raises(DicomError, match=r"^film\.dcm: "):
        dicom.read_stored(folder / "film.dcm")
    assert not stored.looks_like_dicom(folder / "film.dcm")
    assert (caplog.text, [str(warning.message) for warning in recwarn]) == ("", [])


def unended() -> bytes:
    """A sequence without its delimiter, of which pydicom warns, naming the path."""
    return struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)


def test_the_settings_of_the_process_are_as_before(tmp_path):
    logger, mode = logging.getLogger("pydicom"), pydicom.config.settings.reading_validation_mode
    filters = list(warnings.filters)
    with pytest.raises(DicomError):
        dicom.read_stored(__file__)
    assert not logger.disabled
    assert pydicom.config.settings.reading_validation_mode == mode
    assert warnings.filters == filters


def test_threads_leave_the_settings_of_the_process_as_before():
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(dicom.read_stored, [sound("MR_small.dcm")] * 64))
    assert len(read) == 64
    assert warnings.filters == filters
    assert not logging.getLogger("pydicom").disabled


# The harness itself


@pytest.mark.process
@pytest.mark.slow
def test_the_worker_has_two_gigabytes(worker):
    answer = worker.ask(Path("/dev/zero"))
    assert answer["outcome"] == "error"
    assert "MemoryError" in answer["said"]


@pytest.mark.process
@pytest.mark.slow
def test_a_hang_is_told_and_the_next_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "silent.dcm")
    worker = Worker(seconds=1)
    try:
        assert worker.ask(tmp_path / "silent.dcm")["outcome"] == "hang"
        worker.seconds = SECONDS
        assert worker.ask(sound("MR_small.dcm"))["outcome"] == "image"
    finally:
        worker.close()


@pytest.mark.process
@pytest.mark.slow
def test_a_crash_is_told(worker):
    assert worker.ask(sound("MR_small.dcm"))["outcome"] == "image"
    worker.process.kill()
    worker.process.wait()
    assert worker.ask(sound("MR_small.dcm")) == {"outcome": "crash", "said": "exit status -9", "warned": ""}


@pytest.mark.parametrize(
    ("outcome", "said", "warned", "wrong"),
    [
        ("image", "", "", ""),
        ("refused", "x.DicomError: 1.dcm: Rows: missing; correct it", "", ""),
        ("refused", "x.NotAnImage: 1.dcm: PixelData: no image: RT Plan", "1.dcm: BurnedInAnnotation: YES", ""),
        ("error", "KeyError: 5", "", "error: "),
        ("hang", "", "", "hang: "),
        ("crash", "exit status -6", "", "crash: "),
        ("outside [0, 1]", "", "", "outside"),
        ("refused", "x.DicomError: 1.dcm: file: damaged (MemoryError)", "", "out of memory"),
        ("refused", "x.DicomError: 1.dcm: Rows: Geheim", "", "says too much"),
        ("refused", "x.DicomError: 1.dcm: file: no\nfrom ValueError: GEHEIM ANNA", "", "says too much"),
        ("image", "", "value of Anna", "says too much"),
        ("refused", f"x.DicomError: 1.dcm: file: {FOLDER}/1.dcm", "", "says too much"),
        ("refused", "x.DicomError: dataset: Rows: missing", "", "does not name the file"),
        ("refused", "x.DicomError: 1.dcm: missing", "", "does not name the file and a field"),
        ("refused", "x.ImageError: 1.dcm: pixels: not decodable (KeyError); get a new copy", "", "no refusal of ours"),
    ],
)
def test_what_counts_as_a_fault(outcome, said, warned, wrong, tmp_path):
    answer = {"outcome": outcome, "said": said, "warned": warned}
    told = fault(answer, tmp_path / FOLDER / "1.dcm")
    assert told.startswith(wrong) if wrong else told == ""


def test_mutations_depend_on_the_seed_alone_and_change_the_file():
    path = sound("MR_small.dcm")
    twice = [[mutated(path, random.Random(seed))[0] for seed in range(20)] for _ in range(2)]
    assert twice[0] == twice[1]
    assert sum(data != named(path.read_bytes()) for data in twice[0]) >= 18


def test_the_files_hold_the_name_that_no_message_may_hold():
    """But for one that cannot be written again, and one whose header is deflated."""
    assert sum(PATIENT.encode() in named(path.read_bytes()) for path in WHEEL) >= len(WHEEL) - 2


@pytest.mark.parametrize("mutation", sorted(set(MUTATIONS), key=lambda one: one.__name__), ids=lambda one: one.__name__)
def test_every_mutation_applies_to_a_sound_file(mutation):
    data = sound("MR_small_jpeg_ls_lossless.dcm").read_bytes()
    assert any(mutation(data, random.Random(seed)) != data for seed in range(10))
