"""``rtda data check``: each file in one line that says what was decided and why; a table and a sheet of the same."""

from __future__ import annotations

import csv
import dataclasses
import re
import runpy
import shutil
import weakref
from collections import Counter
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from PIL import Image
from pydicom.data import get_testdata_file
from rtda.pipeline.cli import main
from rtda.pipeline.commands import check
from rtda.pipeline.delivery.bundle import INSTALLED
from rtda.pipeline.sheet import ACROSS, DOWN, LINE, MARGIN, MOST, PLACE, SIDE, evenly
from rtda.transforms.display import Choices
from rtda.transforms.facts import NO_FACTS
from rtda.transforms.reader import FilmReader
from rtda.transforms.stored import MAX_FRAMES, MAX_INFLATED

RAMP = np.arange(200, dtype=np.uint8).reshape(10, 20)  # twice as wide as high
SECRETS = {"PatientName": "Zebra^Quagga", "PatientID": "Z4711", "StudyDate": "20200131", "AccessionNumber": "Q99"}
CT = {"Modality": "CT", "BitsStored": 16, "RescaleSlope": 1, "RescaleIntercept": -1024}


@pytest.fixture
def rtda(capsys, tmp_path, monkeypatch):
    """Run ``rtda data check`` beside the folder ``files``: (status, lines of the files, lines of the summary)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        capsys.readouterr()
        status = main(["data", "check", *map(str, argv)])
        run.out, run.err = capsys.readouterr()
        files, _, summary = run.out.partition("\n\n")
        return status, files.splitlines(), summary.splitlines()

    return run


@pytest.fixture
def refused(rtda):
    """Run and expect status 2, and one line that names all these words but no folder."""

    def run(argv, *words):
        assert rtda(*argv)[0] == 2
        assert rtda.err.count("\n") == 1
        assert rtda.err.startswith("rtda: ")
        for word in words:
            assert word in rtda.err
        for folder in (str(Path.cwd()), str(INSTALLED)):
            assert folder not in rtda.err

    return run


@pytest.fixture
def mixed(tmp_path, write_film, make_lut):
    """A folder of films, colour, frames, other formats, reports, text, and files to refuse."""
    folder = tmp_path / "files"
    (folder / "zz/sub").mkdir(parents=True)
    region = pydicom.Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 4, 2
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 19, 7
    films = {
        "a one": {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 100, "WindowWidth": 150},
        "b two": {"PresentationLUTShape": "IDENTITY", "PixelPaddingValue": 7, "LossyImageCompression": "01"},
        "c lut": {"VOILUTSequence": [make_lut(range(0, 256, 5), bits=8)], "RescaleSlope": 2, "RescaleIntercept": -8},
        "d scan": {"Modality": "US", "SequenceOfUltrasoundRegions": [region], "BurnedInAnnotation": "YES"},
        "e quarrel": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
    }
    for name, fields in films.items():
        write_film(folder / name, RAMP, **fields, **SECRETS)
    write_film(folder / "f loop", np.stack([RAMP, RAMP + 9, RAMP + 50]), **SECRETS)
    write_film(folder / "g ct", RAMP.astype(np.uint16) + 1024, **CT, **SECRETS)
    Image.fromarray(RAMP).save(folder / "h.png")
    Image.fromarray(RAMP).convert("RGB").save(folder / "i.jpg")
    nib.save(nib.Nifti1Image(RAMP.T, None), folder / "j.nii.gz")
    for name in ("MR_small.dcm", "SC_rgb_rle.dcm", "reportsi.dcm", "rtplan.dcm", "MR_truncated.dcm"):
        shutil.copy(get_testdata_file(name), folder / "zz" / name)
    (folder / "zz/sub/notes.txt").write_text("no image")
    (folder / ".hidden").write_text("nothing")
    return folder


LINES = """
 1  a one  DX, DICOM, 10 × 20: no rescale; window 100/150 LINEAR of the header; inverted (MONOCHROME1)
 2  b two  DX, DICOM, 10 × 20: no rescale; declared range 0..255, no window in the header; as stored \
(PresentationLUTShape IDENTITY); padding is black (PixelPaddingValue); lossy (LossyImageCompression 01)
 3  c lut  DX, DICOM, 10 × 20: rescale 2 x - 8; VOI LUT 0 of 52 entries of the header; as stored (MONOCHROME2)
 4  d scan  US, DICOM, 6 × 16: no rescale; declared range 0..255, no window in the header; as stored (MONOCHROME2); \
crop rows 2..7, columns 4..19 (ultrasound regions); warning: BurnedInAnnotation: YES, so names may stand in the \
pixels; look before you share pictures of it
 5  e quarrel  refused: PresentationLUTShape: IDENTITY contradicts PhotometricInterpretation MONOCHROME1; set polarity \
to 'shape' or 'photometric'
 6  f loop  DX, DICOM, 10 × 20, 3 frames (#frame=0..2): no rescale; declared range 0..255, no window in the header; \
as stored (MONOCHROME2)
 7  g ct  refused: Modality: CT needs hu_window among the bundle's choices; set it, or give a film
 8  h.png  PNG, 10 × 20: full scale of its type; as stored (PNG)
 9  i.jpg  JPEG, 10 × 20: full scale of its type; as stored (JPEG)
10  j.nii.gz  NIfTI, 10 × 20: full scale of its type; as stored (NIfTI)
11  zz/MR_small.dcm  MR, DICOM, 64 × 64: no rescale; window 600/1600 LINEAR of the header; as stored (MONOCHROME2)
12  zz/MR_truncated.dcm  refused: PixelData: 8130 bytes, but 64 x 64 x 1 pixels take 8192; the file is cut, get a new \
copy
13  zz/SC_rgb_rle.dcm  OT, DICOM, 100 × 100: luma of colour, no window; as stored (RGB)
14  zz/reportsi.dcm  not an image: Basic Text SR Storage
15  zz/rtplan.dcm  not an image: RT Plan Storage
16  zz/sub/notes.txt  not an image: neither a DICOM image, PNG, JPEG nor NIfTI; convert it to one of these
""".strip("\n").splitlines()  # fmt: skip
SUMMARY = [
    "10 read, 3 not images, 3 refused",
    "modality: DX 4, US 1, PNG 1, JPEG 1, NIfTI 1, MR 1, OT 1",
    "polarity: as stored (MONOCHROME2) 4, inverted (MONOCHROME1) 1, as stored (PresentationLUTShape IDENTITY) 1, "
    "as stored (PNG) 1, as stored (JPEG) 1, as stored (NIfTI) 1, as stored (RGB) 1",
    "window: declared range 3, full scale 3, header window 2, header LUT 1, luma 1",
    "refused for: PresentationLUTShape 1, Modality 1, PixelData 1",
    "choices: none, so what is ambiguous is refused",
]


def test_a_mixed_folder_is_told_line_by_line(rtda, mixed):
    status, files, summary = rtda("files")
    assert files == LINES
    assert summary == SUMMARY
    assert status == 1
    assert rtda.err.startswith("check: 0/16\ncheck: 16/16")


def test_the_status_is_0_only_where_nothing_is_refused(rtda, mixed):
    assert rtda("files/a one", "files/h.png", "files/zz/rtplan.dcm", "files/zz/sub")[0] == 0
    assert rtda("files/a one", "files/e quarrel")[0] == 1
    status, files, summary = rtda("files/zz/sub/notes.txt")
    assert (status, summary[:2]) == (0, ["0 read, 1 not images, 0 refused", "modality: none"])
    assert files == [LINES[-1].replace("16  zz/sub/", "1  ")]  # a file that was given itself has its own name


def test_no_identity_reaches_the_output(rtda, mixed):
    header = pydicom.dcmread(mixed / "a one")
    with pydicom.config.disable_value_validation():
        header.Modality = header.PresentationLUTShape = "Zebra^Quagga"  # as a damaged header may say
        header.save_as(mixed / "k.dcm")
        del header.PresentationLUTShape
        header.save_as(mixed / "l.dcm")
        header.Modality = "GEHEIM ANNA"  # written as a code is
        header.save_as(mixed / "m.dcm")
    _, files, _ = rtda("files", "-o", "sheet.png", "--markdown", "table.md")
    assert "l.dcm  no modality, DICOM" in files[11]
    assert "m.dcm  no modality, DICOM" in files[12]
    told = rtda.out + rtda.err + Path("table.md").read_text()
    for secret in ("zebra", "quagga", "geheim", "anna", "z4711", "20200131", "q99", str(mixed.parent).lower()):
        assert secret not in told.lower()


def test_a_name_stays_on_its_line(rtda, tmp_path, write_film):
    folder = tmp_path / "files"
    folder.mkdir()
    names = [b"a\nb  c", b"d\xffe", b"f: g.dcm", "ä|`.dcm".encode()]
    for name in names:
        path = write_film(tmp_path / "film", RAMP, BurnedInAnnotation="YES")
        path.rename(folder / name.decode("utf-8", "surrogateescape"))
    _, files, _ = rtda("files", "--markdown", "table.md")
    assert [line.split("  DX")[0] for line in files] == ["1  a?b  c", "2  d?e", "3  f: g.dcm", "4  ä|`.dcm"]
    assert all(line.endswith("look before you share pictures of it") for line in files)
    assert r"| `ä\|?.dcm` |" in Path("table.md").read_text()


def test_what_differs_between_frames_is_said_to(rtda, tmp_path, write_film):
    groups = []
    for centre in (50, 90):
        group, voi = pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 100
        group.FrameVOILUTSequence = [voi]
        groups.append(group)
    fields = {"PerFrameFunctionalGroupsSequence": groups, "Modality": "US"}  # without regions: each frame warns
    write_film(tmp_path / "loop", np.stack([RAMP, RAMP]), **fields)
    status, (line,), summary = rtda("loop")
    assert status == 0
    assert "2 frames (#frame=0..1): no rescale; window differs by frame; as stored (MONOCHROME2); warning: " in line
    assert line.count("warning: ") == 1
    assert summary[3] == "window: differs by frame 1"


def test_a_long_loop_is_read_frame_by_frame_as_in_training(rtda, tmp_path, write_film):
    loop = write_film(tmp_path / "loop", np.stack([RAMP + k for k in range(9)]), Modality="XA")
    status, (line,), _ = rtda(loop, "--choose", "max_pixels=200")  # as a volume it would be nine times too large
    assert (status, "10 × 20, 9 frames (#frame=0..8)" in line) == (0, True)
    assert rtda(loop, "--choose", "max_pixels=199")[0] == 1


def test_a_damaged_frame_is_told_by_its_number(rtda, tmp_path, write_film):
    write_film(tmp_path / "loop", np.stack([RAMP, RAMP * 0, RAMP, RAMP * 0]), Modality="XA")
    status, (line,), summary = rtda("loop", "-o", "sheet.png")
    cure = "all have one value; the image is empty or outside its window, leave it out"
    assert line == f"1  loop  refused: pixels: {cure} (#frame=1; 2 of 4 frames refused)"
    assert (status, summary[4]) == (1, "refused for: pixels 1")
    write_film(tmp_path / "none", np.stack([RAMP, RAMP]), Modality="NM")
    assert rtda("none")[1][0].endswith("of this modality is no display range; set intensity")  # of both alike


def test_a_frame_can_be_given_by_its_name(rtda, tmp_path, write_film):
    write_film(tmp_path / "loop", np.stack([RAMP, RAMP * 0]), Modality="US")
    status, lines, _ = rtda("loop#frame=0", "loop#frame=1")
    assert lines[0].startswith("1  loop#frame=0  US, DICOM, 10 × 20: ")
    assert lines[0].endswith("; warning: SequenceOfUltrasoundRegions: no region of 2-D tissue; the whole image is "
                             "used, with its text and borders")  # fmt: skip
    assert lines[1].startswith("2  loop#frame=1  refused: pixels: ")
    assert status == 1


def test_a_volume_is_no_film_and_no_fault(rtda, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "brain.nii")
    status, lines, summary = rtda("brain.nii", "-o", "sheet.png")
    cure = "(4, 5, 6) is not one film; give one slice, or read the volume with VolumeReader"
    assert lines == [f"1  brain.nii  volume: {cure}"]
    assert (status, summary[0]) == (0, "0 read, 1 volumes, 0 not images, 0 refused")


def test_what_the_command_wrote_into_the_folder_is_no_image_of_it(rtda, mixed):
    for _ in range(2):
        _, files, _ = rtda("files", "-o", "files/sheet.png", "--markdown", "files/zz/table.md")
        assert files == LINES
    assert rtda("files/sheet.png")[2][0] == "1 read, 0 not images, 0 refused"


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_says_the_same(rtda, mixed):
    rtda("files", "--markdown", "new/table.md")
    table, _, summary = Path("new/table.md").read_text().partition("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    assert table.startswith("| | file | is | decided |\n|---|---|---|---|\n")
    assert [f"{n:>2}  {name.strip('`')}  {what}: {decided}" for n, name, what, decided in rows[2:]] == LINES
    assert summary == "".join(f"- {line}\n" for line in SUMMARY)


# -- the sheet --------------------------------------------------------------------------------------------------------


def place(sheet, number, columns):
    """Grey levels of the place of a tile below two lines of heading, (SIDE, SIDE), and where it is empty."""
    left, top = MARGIN + number % columns * ACROSS, MARGIN + 3 * LINE + number // columns * DOWN
    found = np.asarray(sheet, int)[top : top + SIDE, left : left + SIDE]
    return found.mean(-1), (found == [int(PLACE[k : k + 2], 16) for k in (1, 3, 5)]).all(-1)


def test_the_sheet_shows_what_the_network_sees_but_not_squashed(rtda, tmp_path, write_film):
    folder = tmp_path / "files"
    folder.mkdir()
    write_film(folder / "a", RAMP, BurnedInAnnotation="YES", WindowCenter=100, WindowWidth=1)
    write_film(folder / "b", RAMP, PhotometricInterpretation="MONOCHROME1")
    write_film(folder / "c", np.stack([RAMP, RAMP + 50, RAMP]))
    (folder / "d").write_text("no image")
    write_film(folder / "e", RAMP, PresentationLUTShape="INVERSE")
    write_film(folder / "f", RAMP.T.copy())
    status, _, _ = rtda("files", "-o", "new/sheet.png")
    assert status == 1
    assert rtda.out.endswith("\nnew/sheet.png\n")
    with Image.open("new/sheet.png") as sheet:
        sheet.load()
    assert (sheet.format, sheet.mode, sheet.info) == ("PNG", "RGB", {})
    assert sheet.size[0] >= 2 * MARGIN + 4 * SIDE
    assert 2 * DOWN < sheet.size[1] < 3 * DOWN
    for number, expected in [(1, 1 - RAMP / 255), (2, (RAMP + 50) / 255)]:
        grey, empty = place(sheet, number, 4)
        assert empty[:40].all()  # wider than high: above and below it the ground
        assert empty[-40:].all()
        assert not empty[60:-60].any()
        middle = ((np.arange(20) + 0.5) * SIDE / 20).astype(int)  # of each pixel
        np.testing.assert_allclose(grey[np.ix_(SIDE // 4 + middle[:10], middle)], expected * 255, atol=0.51)
    for number in (0, 3, 4):  # text burnt in, no image, refused
        grey, empty = place(sheet, number, 4)
        assert empty.mean() > 0.95
        assert not empty.all()  # a note says why
    beside = np.asarray(sheet)[MARGIN + 3 * LINE :, -MARGIN:]
    assert (beside == beside[0, 0]).all()  # the long caption of the fourth is cut
    _, empty = place(sheet, 5, 4)
    assert empty[:, :40].all()
    assert not empty[:, 60:-60].any()


def test_captions_say_in_few_words_what_was_decided(rtda, mixed, monkeypatch):
    drawn = []
    monkeypatch.setattr(check, "contact_sheet", lambda tiles, heading: drawn.extend([tiles, heading]) or b"")
    rtda("files", "-o", "sheet.png")
    tiles, heading = drawn
    assert heading == [SUMMARY[0], SUMMARY[2]]
    assert [(tile.title, tile.caption) for tile in tiles[:8]] == [
        ("1  DX", "header window, inverted"),
        ("2  DX", "declared range, as stored"),
        ("3  DX", "header LUT, as stored"),
        ("4  US", "declared range, as stored"),
        ("5", "PresentationLUTShape"),
        ("6  DX", "declared range, as stored"),
        ("7", "Modality"),
        ("8  PNG", "full scale, as stored"),
    ]
    assert [(tile.title, tile.caption, tile.note) for tile in tiles[13:]] == [
        ("14", "Basic Text SR Storage", "not an image"),
        ("15", "RT Plan Storage", "not an image"),
        ("16", "neither a DICOM image, PNG, JPEG nor NIfTI", "not an image"),
    ]
    colours = {tile.colour for tile in tiles}
    assert colours == {tiles[0].colour, tiles[1].colour, tiles[4].colour}  # inverted, usual, refused
    assert len(colours) == 3


def test_of_many_files_some_are_drawn_evenly_and_the_sheet_says_so(rtda, tmp_path, write_film, monkeypatch):
    assert evenly(5) == [0, 1, 2, 3, 4]
    for count in (MOST, MOST + 1, 1000, 5856):
        numbers = evenly(count)
        assert (numbers[0], numbers[-1], len(numbers)) == (0, count - 1, MOST)
        assert np.ptp(np.diff(numbers)) <= 1
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(10):
        write_film(folder / str(number), RAMP)
    monkeypatch.setattr(check, "evenly", partial(evenly, most=4))
    drawn = []
    monkeypatch.setattr(check, "contact_sheet", lambda tiles, heading: drawn.extend([tiles, heading]) or b"")
    assert rtda("files", "-o", "sheet.png")[0] == 0
    assert [tile.title for tile in drawn[0]] == ["1  DX", "4  DX", "7  DX", "10  DX"]
    assert drawn[1][0] == "10 read, 0 not images, 0 refused; 4 of 10 files drawn, evenly spaced"
    assert rtda.out.endswith("sheet.png; 4 of 10 files drawn, evenly spaced\n")


def test_one_image_at_a_time_is_held(rtda, mixed, monkeypatch):
    alive, get = [], FilmReader.get_data

    def watched(reader, img):
        assert not [one for one in alive if one() is not None]
        image, meta = get(reader, img)
        alive.append(weakref.ref(image))
        return image, meta

    monkeypatch.setattr(FilmReader, "get_data", watched)
    assert rtda("files", "-o", "sheet.png")[0] == 1
    assert len(alive) == 12  # of ten files, one of three frames


# -- choices ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path):
    """Make a copy of a bundle whose inference config has this id ``choices``, or none."""

    def make(choices):
        root = tmp_path / "bundle"
        shutil.copytree(INSTALLED / "phantom_rtda", root, dirs_exist_ok=True)
        path = root / "configs/inference.yaml"
        config = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "choices"}
        path.write_text(yaml.safe_dump(config | ({} if choices is None else {"choices": choices})))
        return root

    return make


OURS = {"_target_": "rtda.transforms.display.Choices"}


def test_choices_are_the_bundles_and_above_them_those_of_the_command(rtda, mixed, bundle):
    files = ("files/e quarrel", "files/g ct")
    root = bundle(OURS | {"hu_window": [40, 400], "polarity": "shape"})
    status, lines, summary = rtda(*files, "--bundle", root)
    assert status == 0
    assert lines[0].endswith("as stored (PresentationLUTShape IDENTITY, against MONOCHROME1)")
    assert "rescale 1 x - 1024; window 40/400 HU, chosen; " in lines[1]
    assert (summary[3], summary[4]) == ("window: declared range 1, chosen 1", "refused for: none")
    assert summary[-1] == "choices: hu_window=[40, 400], polarity=shape"
    status, lines, summary = rtda(*files, "--bundle", root, "--choose", "polarity=photometric", "--choose=region=")
    assert lines[0].endswith("inverted (MONOCHROME1, against PresentationLUTShape IDENTITY)")
    assert summary[-1] == "choices: hu_window=[40, 400], polarity=photometric"
    assert rtda(*files, "--choose", "hu_window=[40,400]", "--choose", "polarity=shape")[0] == 0


def test_a_bundle_without_choices_has_none(rtda, mixed, bundle):
    status, _, summary = rtda("files/e quarrel", "files/g ct", "--bundle", bundle(None))
    assert status == 1
    assert summary[0] == "0 read, 0 not images, 2 refused"
    assert check.chosen(str(bundle(None)), []) == Choices()


def test_choices_of_a_bundle_may_refer_to_its_ids(bundle):
    assert check.chosen(str(bundle(OURS | {"max_pixels": "$@image_size * 2"})), []).max_pixels == 128


@pytest.mark.parametrize("name", ["phantom_rtda", "chest_xray_rtda"])
def test_every_bundle_has_choices(name):
    assert isinstance(check.chosen(name, []), Choices)


@pytest.mark.parametrize(
    ("range_of", "line"),
    [("range: [0, 99]", "range 0..99, chosen"), ("percentiles: [1, 99]", "percentiles 1..99, chosen")],
)
def test_a_chosen_intensity_is_said_to_be_chosen(rtda, tmp_path, write_film, range_of, line):
    write_film(tmp_path / "mr", RAMP, Modality="MR")
    status, lines, summary = rtda("mr", "--choose", f"intensity={{{range_of}}}")
    assert status == 0
    assert f"; {line}; as stored" in lines[0]
    assert summary[3] == "window: chosen 1"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("window=[40,400]", "choose: 'window=[40,400]' is not NAME=VALUE with a NAME of hu_window, intensity, "),
        ("hu_window", "choose: 'hu_window' is not NAME=VALUE"),
        ("hu_window=[40,", "choose: 'hu_window=[40,': the value is not YAML"),
        ("hu_window=[40,0]", "hu_window: [40, 0] is not (centre, width > 0) in HU"),
        ("hu_window=wide", "hu_window: 'wide' is not (centre"),
        ("polarity=shapes", "polarity: 'shapes' is not one of"),
        ("region=first", "region: 'first' is no item"),
        ("allow_for_processing=maybe", "allow_for_processing: 'maybe' is not one of False, True"),
        ("max_pixels=1e9", "max_pixels: '1e9' is not a whole number above 0"),
        ("intensity=[0, 255]", "intensity: [0, 255] is neither"),
    ],
)
def test_a_choice_that_does_not_exist_is_a_usage_error(refused, mixed, word, told):
    refused(["files", "--choose", word], told)


def test_the_help_says_what_may_be_given(capsys):
    assert main(["data", "check", "--help"]) == 0
    assert re.search(r"FILES\|FOLDER\|LIST.json\s+films, and folders of films", capsys.readouterr().out)


def test_other_usage_errors(refused, mixed, bundle):
    refused(["files/none.dcm"], "none.dcm: file: does not exist")
    refused(["files", "-o", "files"], "files: output: a folder")
    refused(["files", "--markdown", "."], "output: a folder")
    refused(["files", "--bundle", "none"], "none: bundle: not found")
    refused(["files", "--bundle", bundle({"hu_window": [40, 400]})], "inference.yaml: choices: not rtda.")
    refused(["files", "--bundle", bundle(OURS | {"hu_window": 40})], "hu_window: 40 is not")
    refused(["files", "--bundle", bundle(OURS | {"colour": "red"})], "choices: cannot be made")


# -- the page docs/dicom.md -------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/dicom.md").read_text()


def test_the_page_names_every_choice_and_every_fact():
    for name in (*(field.name for field in dataclasses.fields(Choices)), *NO_FACTS):
        assert f"`{name}`" in PAGE, name


def test_the_page_states_how_many_files_a_sheet_holds_and_the_command_of_its_figure():
    assert f"At most {MOST} files are drawn" in PAGE
    (command,) = re.findall(r"`python (docs/figures/\S+) (docs/images/\S+)`", PAGE)
    assert all((ROOT / path).is_file() for path in command)
    assert f"]({command[1].removeprefix('docs/')})" in PAGE


def test_the_python_of_the_page_runs():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(block, "dicom.md", "exec"), made := {})
    film, same, volume = made["film"], made["same"], made["volume"]
    assert (film.shape, volume.shape) == ((1, 128, 128), (1, 5, 16, 16))
    assert torch.equal(film.as_tensor(), same.as_tensor())
    assert film.meta["film_window"] == same.meta["window"] == "40/400 HU of the bundle"
    assert volume.affine.shape == (4, 4)


def test_every_choice_written_on_the_page_can_be_made():
    blocks = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
    made = [ConfigParser(block).get_parsed_content("choices") for block in blocks]
    assert made == [Choices(hu_window=[40, 400]), Choices(voi="intensity", intensity={"range": [0, 1500]})]


def test_the_page_states_the_limits():
    assert f"more than {MAX_FRAMES:,} frames" in PAGE
    assert f"beyond {MAX_INFLATED // 2**20} MiB" in PAGE


def test_the_figure_shows_what_it_says(tmp_path):
    figure = runpy.run_path(str(ROOT / "docs/figures/dicom_polarity.py"))
    verdicts = [axes.get_xlabel() for axes in figure["drawn"](tmp_path).axes]
    assert verdicts == [
        *("no window", "right", "no window", "right", "right"),
        *("inverted, no window", "inverted", "no window", "inverted", "right"),
    ]
    shown = [figure["ours"](tmp_path / photometric) for photometric in figure["ENCODINGS"]]
    np.testing.assert_allclose(shown[0], shown[1], rtol=0, atol=2**-23)
    truth = (figure["exposed"]() - (figure["CENTRE"] - 0.5)) / (figure["WIDTH"] - 1) + 0.5
    np.testing.assert_allclose(shown[0], truth.clip(0, 1), rtol=0, atol=2**-23)


# -- real files -------------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_120_real_files_are_told_as_the_manifest_expects(rtda, real_data):
    folder = real_data / "dicom_reader"
    with open(folder / "manifest.csv", newline="") as file:
        manifest = {row["file"].removeprefix("files/"): row for row in csv.DictReader(file)}
    status, files, summary = rtda(
        folder / "files", "-o", "sheet.png", "--markdown", "table.md", "--choose", "hu_window=[40,400]"
    )
    (sample,) = re.findall(r"^```\n((?: *\d+  .*\n)+)```", PAGE, re.MULTILINE)
    assert set(sample.splitlines()) < set(files)
    outcome = {}
    for line in files:
        name, told = re.fullmatch(r" *\d+  (\S+)  (.*)", line).groups()
        outcome[name] = told
    assert set(outcome) == set(manifest)
    assert len(files) == 120
    for name, told in outcome.items():
        row, read = manifest[name], not told.startswith(("refused: ", "not an image: "))
        if "refuse" in row["expect"]:
            assert not read, name
        elif not read:  # a choice that was not made, what is no picture, the GPL decoder's file, tiles of bare glass
            reasons = r"refused: (RescaleType|WindowCenter): .* set (allow_rescale_type|intensity)$"
            reasons += "|not an image: Segmentation|refused: TransferSyntaxUID: JPEG Extended"
            reasons += r"|refused: pixels: all have one value; .*; 8 of 25 frames refused\)"
            assert re.match(reasons, told), name
        else:
            assert row["decode"].startswith("ok"), name
            assert ("inverted (" in told) == (row["photometric"] == "MONOCHROME1"), name
            if ", ultrasound" not in told and "crop" not in told:
                assert f"{row['rows']} × {row['cols']}" in told, name
            assert (f"{row['frames']} frames" in told) == (int(row["frames"] or 1) > 1), name
    counted = Counter("read" if ", DICOM, " in told else told.split(":")[0] for told in outcome.values())
    assert summary[0] == "76 read, 12 not images, 32 refused"
    assert counted == {"read": 76, "not an image": 12, "refused": 32}
    assert status == 1
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 11 * SIDE
    assert PAGE.endswith(Path("table.md").read_text()), "docs/dicom.md: make its table anew"
