"""One film in any format gives one tensor; everything else is refused in one line."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, LoadImaged
from PIL import Image, PngImagePlugin
from rtda.transforms import reader, stored
from rtda.transforms.dicom import read_stored, to_tensor
from rtda.transforms.display import Choices
from rtda.transforms.facts import NO_FACTS
from rtda.transforms.header import DicomError, NotAnImage
from rtda.transforms.reader import FilmReader, ImageError, named_frame

FILM = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)  # not square, no symmetry
# LoadImage makes all of MONAI's readers, and one of them warns where its decoder is not installed.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


def load(path, **how):
    return Compose([LoadImage(reader=FilmReader(**how), image_only=True), EnsureChannelFirst()])(path)


def read(path, **how):
    film_reader = FilmReader(**how)
    return film_reader.get_data(film_reader.read(path))[0]


def save_sitk(path, array):
    sitk.WriteImage(sitk.GetImageFromArray(array), path, imageIO="NiftiImageIO")
    return path


# -- THE test of the design: images are one thing in every format --


@pytest.fixture
def films(tmp_path, write_film):
    """The same film in every format, told apart only by content."""
    Image.fromarray(FILM).save(tmp_path / "a", format="PNG")
    write_film(tmp_path / "b", FILM)
    save_sitk(tmp_path / "c.nii", FILM).rename(tmp_path / "c")
    (tmp_path / "d").write_bytes(gzip.compress((tmp_path / "c").read_bytes()))
    save_sitk(tmp_path / "e.nii", FILM[None]).rename(tmp_path / "e")
    bare = pydicom.dcmread(tmp_path / "b")
    del bare.file_meta
    bare.preamble = None
    bare.save_as(tmp_path / "f", implicit_vr=True, little_endian=True, enforce_file_format=False)
    Image.fromarray(FILM).convert("RGB").save(tmp_path / "g", format="PNG")
    return [tmp_path / name for name in "abcdefg"]


def test_one_film_of_8_bits_is_bit_equal_in_every_format(films):
    expected = torch.from_numpy((FILM / 255).astype(np.float32))[None]
    for path in films:
        image = load(path)
        assert image.dtype == torch.float32
        assert image.shape == (1, 5, 7)
        assert torch.equal(image.as_tensor(), expected), path.name


def test_12_bits_against_a_16_bit_png(tmp_path, write_film):
    stored = np.random.default_rng(1).integers(0, 4096, (6, 4), dtype=np.uint16)
    stored.flat[:2] = 0, 4095
    Image.fromarray(np.round(stored / 4095 * 65535).astype(np.uint16)).save(tmp_path / "png", format="PNG")
    film = load(write_film(tmp_path / "dicom", stored, BitsStored=12))
    assert (film - load(tmp_path / "png")).abs().max() <= 1 / 65535
    assert film.max() == 1


def test_a_wrong_suffix_does_not_matter(tmp_path, films):
    films[1].rename(tmp_path / "film.png")
    films[0].rename(tmp_path / "film.dcm")
    assert torch.equal(load(tmp_path / "film.png").as_tensor(), load(tmp_path / "film.dcm").as_tensor())


def test_facts_of_all_formats_collate_in_one_batch(films):
    data = Dataset(
        [{"image": path} for path in films],
        LoadImaged(keys="image", reader=FilmReader(), ensure_channel_first=True, image_only=True),
    )
    batch = next(iter(DataLoader(data, batch_size=len(films))))["image"]
    assert batch.shape == (len(films), 1, 5, 7)
    assert batch.meta["film_format"] == ["PNG", "DICOM", "NIfTI", "NIfTI", "NIfTI", "DICOM", "PNG"]
    assert batch.meta["film_modality"][:2] == ["", "DX"]
    assert batch.meta["film_rows"].tolist() == [5] * len(films)
    assert {f"film_{key}" for key in NO_FACTS} <= set(batch.meta)


# -- DICOM --


def test_the_reader_is_to_tensor(tmp_path, write_film):
    fields = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": int(FILM[2, 3]), "ViewPosition": "PA"}
    path = write_film(tmp_path / "film", FILM, **fields, WindowCenter=99, WindowWidth=50, PatientID="Z4711")
    image = load(path, hashed=lambda plain: plain[::-1])
    expected = to_tensor(*read_stored(path), hashed=lambda plain: plain[::-1])
    assert torch.equal(image.as_tensor(), expected.as_tensor())
    told = {key: image.meta[f"film_{key}"] for key in NO_FACTS}
    assert str(told) == str({key: expected.meta[key] for key in NO_FACTS})  # as text, because NaN is not NaN
    assert (told["projection"], told["padding"], told["patient_id"]) == ("PA", True, "1174Z")


LOOP = np.random.default_rng(7).integers(0, 256, (4, 5, 7), dtype=np.uint8)


@pytest.fixture(params=["grey", "colour"])
def loop(request, tmp_path, write_film):
    """A file of four frames, and what it shows."""
    if request.param == "grey":
        return write_film(tmp_path / "loop.dcm", LOOP), LOOP / 255
    colour = np.random.default_rng(8).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    fields = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}
    return write_film(tmp_path / "loop.dcm", colour, **fields), colour / 255 @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize("frame", range(4))
def test_a_path_may_name_a_frame(loop, frame):
    path, shown = loop
    image = load(f"{path}#frame={frame}")
    assert image.shape == (1, 5, 7)
    np.testing.assert_allclose(image[0].numpy(), shown[frame], rtol=0, atol=2**-23)
    assert image.meta["film_frame"] == frame
    assert torch.equal(image.as_tensor(), load(path, frame=frame).as_tensor())
    assert torch.equal(image.as_tensor()[0], load(path, frame="all").as_tensor()[0, frame])


def test_all_frames_are_a_volume(loop):
    path, shown = loop
    image = load(path, frame="all")
    assert image.shape == (1, 4, 5, 7)
    np.testing.assert_allclose(image[0].numpy(), shown, rtol=0, atol=2**-23)
    assert load(f"{path}#frame=1", frame="all").shape == (1, 5, 7)  # the path says it more closely


def test_a_frame_is_an_item_of_a_list(loop):
    path, shown = loop
    items = [{"image": f"{path}#frame={frame}"} for frame in (3, 0)]
    data = Dataset(items, LoadImaged(keys="image", reader=FilmReader(), ensure_channel_first=True, image_only=True))
    batch = next(iter(DataLoader(data, batch_size=2)))["image"]
    np.testing.assert_allclose(batch[:, 0].numpy(), shown[[3, 0]], rtol=0, atol=2**-23)
    assert batch.meta["film_frame"].tolist() == [3, 0]


def test_several_frames_need_a_name(loop, monkeypatch):
    path, _ = loop
    monkeypatch.setattr(stored, "pixel_array", None)  # refused before any of them is decoded
    cure = r"give each by its name, from loop\.dcm#frame=0 on \(in Python all: frame='all'\)$"  # a command first
    with pytest.raises(DicomError, match=rf"^loop\.dcm: NumberOfFrames: several frames; {cure}"):
        read(path)
    with pytest.raises(DicomError, match=r"^loop\.dcm: NumberOfFrames: 4, so there is no frame 4; they count from 0"):
        read(f"{path}#frame=4")


@pytest.mark.parametrize(
    ("path", "name", "frame"),
    [
        ("a/loop.dcm#frame=0", "a/loop.dcm", 0),
        ("a/loop#frame=12", "a/loop", 12),
        ("a/loop.dcm", "a/loop.dcm", None),
        ("a/loop.dcm#frame=", "a/loop.dcm#frame=", None),
        ("a/loop.dcm#frame=-1", "a/loop.dcm#frame=-1", None),
        ("a/#frame=1", "a/#frame=1", None),
        ("a#frame=1/loop", "a#frame=1/loop", None),
        ("a/loop#frame=01", "a/loop#frame=01", None),  # a second name of one frame
    ],
)
def test_frames_are_named_by_numbers(path, name, frame):
    assert named_frame(Path(path)) == (Path(name), frame)


def test_a_file_that_is_called_like_a_frame_is_that_file(tmp_path, write_film):
    write_film(tmp_path / "loop", LOOP)
    film = write_film(tmp_path / "loop#frame=1", LOOP[3])
    assert np.array_equal(read(film), (LOOP[3] / 255).astype(np.float32))
    assert np.array_equal(read(f"{film}#frame=0"), read(film))
    assert np.array_equal(read(tmp_path / "loop#frame=2"), (LOOP[2] / 255).astype(np.float32))


def test_frames_are_counted_without_decoding(films, loop, monkeypatch):
    path, _ = loop
    monkeypatch.setattr(stored, "pixel_array", None)
    assert FilmReader().frames(path) == {k: Path(f"{path}#frame={k}") for k in range(4)}
    assert FilmReader().frames(f"{path}#frame=2") == {2: Path(f"{path}#frame=2")}
    assert FilmReader(frame=1).frames(path) == {1: path}
    assert FilmReader(frame="all").frames(path) == {0: path}
    assert all(FilmReader().frames(film) == {0: film} for film in films)


@pytest.mark.parametrize(
    ("fields", "cut", "match"),
    [
        ({}, 9, "PixelData: 131 bytes, but 5 x 7 x 4 pixels take 140"),
        ({"NumberOfFrames": 0}, 0, "NumberOfFrames: 0 is less than one"),
        ({"PresentationIntentType": "FOR PROCESSING"}, 0, "PresentationIntentType: FOR PROCESSING is not meant"),
        ({"SOPClassUID": pydicom.uid.SegmentationStorage}, 0, "SOPClassUID: labels, doses or measures, no image"),
        ({"HighBit": 6}, 0, "HighBit: 6 is not BitsStored - 1"),
        ({"PixelData": None}, 0, "PixelData: no pixel data in this Digital X-Ray"),
    ],
)
def test_a_fault_of_the_whole_file_is_told_before_its_frames_are_counted(tmp_path, write_film, fields, cut, match):
    header = pydicom.dcmread(write_film(tmp_path / "loop", LOOP))
    for field, value in fields.items():
        setattr(header, field, value)
    header.save_as(tmp_path / "loop")
    (tmp_path / "loop").write_bytes((tmp_path / "loop").read_bytes()[: -cut or None])
    with pytest.raises(DicomError, match=f"^loop: {match}"):
        FilmReader().frames(tmp_path / "loop")


def test_more_compressed_frames_than_could_lie_in_the_file_are_refused(tmp_path):
    header = pydicom.dcmread(pydicom.data.get_testdata_file("examples_ybr_color.dcm"))
    header.NumberOfFrames = 10**6
    header.save_as(tmp_path / "loop")
    with pytest.raises(DicomError, match=r"^loop: PixelData: \d+ bytes do not hold 1000000 compressed frames"):
        FilmReader().frames(tmp_path / "loop")
    with pytest.raises(ImageError, match=r"^none: file: not readable .FileNotFoundError"):
        FilmReader().frames(tmp_path / "none")


@pytest.fixture
def headers_read(monkeypatch):
    """Names of the files whose headers are read, in order."""
    names, whole = [], reader.read_header

    def record(path):
        names.append(path.name)
        return whole(path)

    monkeypatch.setattr(reader, "read_header", record)
    return names


def test_a_file_is_read_once_for_all_its_frames(loop, tmp_path, write_film, headers_read):
    path, _ = loop
    film = write_film(tmp_path / "film", FILM)
    one = FilmReader()
    for frame in one.frames(path).values():
        one.get_data(one.read(frame))
    assert headers_read == ["loop.dcm"]
    for image in (*one.frames(film).values(), film, f"{path}#frame=1"):  # of a film nothing is kept
        one.get_data(one.read(image))
    assert headers_read == ["loop.dcm", "film", "film", "loop.dcm"]


def test_a_file_that_changed_is_read_anew(tmp_path, write_film):
    one, path = FilmReader(), tmp_path / "loop"
    write_film(path, LOOP)
    assert one.get_data(one.read(f"{path}#frame=0"))[0][0, 0] == np.float32(LOOP[0, 0, 0] / 255)
    write_film(path, 255 - LOOP)
    os.utime(path, ns=(0, 0))
    assert one.get_data(one.read(f"{path}#frame=0"))[0][0, 0] == np.float32((255 - LOOP[0, 0, 0]) / 255)


@pytest.mark.parametrize("groups", [{}, {"PerFrameFunctionalGroupsSequence": [pydicom.Dataset() for _ in LOOP]}])
def test_a_file_warns_once_for_all_its_frames(tmp_path, write_film, groups):
    path = write_film(tmp_path / "loop", LOOP, BurnedInAnnotation="YES", Modality="US", **groups)
    one = FilmReader()
    by_frame = [f"{path}#frame={k}" for k in (0, 2, 1)]
    expected = ["loop: BurnedInAnnotation: YES, so", "loop: SequenceOfUltrasoundRegions: no region"]
    for film_reader, images in ((one, by_frame), (FilmReader(frame="all"), [path])):
        with pytest.warns(UserWarning, match="^loop: ") as caught:
            _ = [film_reader.get_data(film_reader.read(image)) for image in images]
        told = sorted(str(warning.message) for warning in caught)
        assert len(told) == 2
        assert all(line.startswith(start) for line, start in zip(told, expected, strict=True))


def test_a_file_warns_again_when_its_frames_are_asked_for_again(tmp_path, write_film):
    path, one = write_film(tmp_path / "loop", LOOP, BurnedInAnnotation="YES"), FilmReader()
    for _ in range(2):
        first = one.frames(path)[0]
        with pytest.warns(UserWarning, match="^loop: BurnedInAnnotation"):
            one.get_data(one.read(first))


@pytest.mark.parametrize(("kind", "readings"), [(CacheDataset, 1), (Dataset, 2)])
def test_two_epochs_warn_once_a_reading(tmp_path, write_film, kind, readings):
    items = [{"image": str(write_film(tmp_path / "film", FILM, BurnedInAnnotation="YES"))}]

    def two_epochs():
        data = kind(items, LoadImaged(keys="image", reader=FilmReader(), image_only=True))
        return [[item["image"] for item in data] for _ in range(2)]

    with pytest.warns(UserWarning, match="^film: BurnedInAnnotation") as caught:
        two_epochs()
    assert sum(str(one.message).startswith("film: ") for one in caught) == readings


def test_a_single_image_of_any_format_has_frame_0_alone(films):
    for path in films:
        assert torch.equal(load(f"{path}#frame=0").as_tensor(), load(path).as_tensor())
        with pytest.raises((DicomError, ImageError), match=rf"^{path.name}: (NumberOfFrames|frames): .* no frame 1"):
            read(f"{path}#frame=1")


def test_only_one_frame_is_decoded(loop, monkeypatch):
    path, _ = loop
    decoded, decode = [], stored.pixel_array

    def record(header, index, **named):
        decoded.append(index)
        return decode(header, index=index, **named)

    monkeypatch.setattr(stored, "pixel_array", record)
    read(f"{path}#frame=2")
    assert decoded == [2]


def test_no_images_keep_their_kind(tmp_path, write_film):
    header = pydicom.dcmread(write_film(tmp_path / "film", FILM))
    del header.PixelData
    header.SOPClassUID = pydicom.uid.BasicTextSRStorage
    header.save_as(tmp_path / "report")
    with pytest.raises(NotAnImage, match=r"^report: PixelData: no pixel data, no image: Basic Text SR Storage"):
        read(tmp_path / "report")


def test_a_film_of_padding_alone_is_empty(tmp_path, write_film):
    path = write_film(tmp_path / "film", np.full((3, 3), 9, np.uint8), PixelPaddingValue=9)
    with pytest.raises(ImageError, match=r"^film: pixels: all have one value"):
        read(path)


# -- NIfTI --


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "PLS"])
def test_a_stated_orientation_is_turned_to_lps(tmp_path, codes):
    lps = nib.Nifti1Image(FILM.T[..., None], np.diag([-1, -1, 1, 1]))
    start, goal = (nib.orientations.axcodes2ornt(c) for c in ("LPS", codes))
    turned = lps.as_reoriented(nib.orientations.ornt_transform(start, goal))
    nib.save(turned, tmp_path / "film.nii")
    assert "".join(nib.aff2axcodes(turned.affine)) == codes
    assert np.array_equal(read(tmp_path / "film.nii"), (FILM / 255).astype(np.float32))


def test_without_a_stated_orientation_the_order_is_columns_rows(tmp_path):
    nib.save(nib.Nifti1Image(FILM.T, None), tmp_path / "film.nii")
    assert np.array_equal(read(tmp_path / "film.nii"), (FILM / 255).astype(np.float32))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_floats_are_taken_as_they_are(tmp_path, kind):
    values = FILM.astype(">f4") / np.float32(255)
    nib.save(kind(values.T, None), tmp_path / "film.nii.gz")
    assert np.array_equal(read(tmp_path / "film.nii.gz"), values)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (FILM.astype(np.int16), "datatype: int16 has no full scale"),
        (FILM.astype(np.float32), r"pixels: floats lie outside \[0, 1\]"),
        (np.where(FILM > 9, FILM / 255, np.nan).astype(np.float32), "pixels: hold NaN"),
        (np.zeros((4, 4), np.uint8), "pixels: all have one value"),
        (np.stack([FILM, FILM]), r"dim: \(7, 5, 2\) is not one film"),
    ],
)
def test_nifti_without_a_scale_is_refused(tmp_path, array, match):
    path = save_sitk(tmp_path / "film.nii", array)
    with pytest.raises(ImageError, match=rf"^film\.nii: {match}"):
        read(path)


def test_a_film_outside_the_plane_is_refused(tmp_path):
    coronal = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(FILM.T[..., None], coronal), tmp_path / "film.nii")
    with pytest.raises(ImageError, match="affine: the film does not lie"):
        read(tmp_path / "film.nii")


# -- PNG and JPEG --


def test_colour_is_luma_in_float(tmp_path):
    colour = np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "rgb.png")
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "rgba.png")
    luma = colour[..., 0] * 0.299 + colour[..., 1] * 0.587 + colour[..., 2] * 0.114
    np.testing.assert_allclose(read(tmp_path / "rgb.png"), luma / 255, atol=1e-7)
    assert np.array_equal(read(tmp_path / "rgb.png"), read(tmp_path / "rgba.png"))


def test_palette_and_bilevel_images(tmp_path):
    image = Image.fromarray(FILM % 2).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "palette.png")
    assert np.array_equal(read(tmp_path / "palette.png"), 1 - FILM % 2)
    Image.fromarray(FILM > 127).save(tmp_path / "bilevel.png")
    assert np.array_equal(read(tmp_path / "bilevel.png"), FILM > 127)


def test_jpeg_grey_as_pillow_decodes_it_and_upright(tmp_path):
    Image.fromarray(FILM).save(tmp_path / "plain.jpg", quality=95)
    with Image.open(tmp_path / "plain.jpg") as image:
        decoded = np.asarray(image)
    assert np.array_equal(read(tmp_path / "plain.jpg"), (decoded / 255).astype(np.float32))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    Image.fromarray(FILM).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    assert np.array_equal(read(tmp_path / "turned.jpg"), read(tmp_path / "plain.jpg")[::-1, ::-1])


def _two_frames(path):
    Image.fromarray(FILM).save(path, save_all=True, append_images=[Image.fromarray(255 - FILM)], format="PNG")


def _translucent_grey(path):
    Image.fromarray(FILM.astype(np.uint16)).save(path, format="PNG", transparency=3)


def _deep_colour(path):
    Image.fromarray(FILM).convert("RGB").save(path, format="PNG")
    data = bytearray(path.read_bytes())
    data[24] = 16  # IHDR says 16 bits a sample
    data[29:33] = PngImagePlugin._crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("save", "match"),
    [
        (lambda p: Image.new("RGBA", (4, 4), (9, 9, 9, 128)).save(p, format="PNG"), "alpha: not opaque"),
        (_translucent_grey, "alpha: not opaque"),
        (lambda p: Image.new("CMYK", (4, 4)).save(p, format="JPEG"), "mode: CMYK is neither grey nor RGB"),
        (_deep_colour, "bit depth: Pillow cuts 16-bit colour"),
        (_two_frames, "frames: more than one"),
        (lambda p: Image.new("L", (4, 4), 7).save(p, format="PNG"), "pixels: all have one value"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + b"?" * 99), "file: not readable"),
        (lambda p: p.write_bytes(b"\xff\xd8\xff\xe0"), "file: not readable .*; check that it is whole"),
        (lambda p: p.write_bytes(gzip.compress(b"text")), "format: gzip, but not of a NIfTI"),
        (lambda p: p.write_bytes(gzip.compress(b"text" * 999)[:-9]), "file: not readable|pixels: not decodable"),
        (lambda p: p.write_text("text"), "format: neither a DICOM image"),
        (lambda p: p.write_bytes(b""), "file: empty; get a new copy"),
        (lambda p: p.mkdir(), "file: not readable .IsADirectoryError.; check its path and permissions"),
        (lambda p: None, "file: not readable .FileNotFoundError.; check its path and permissions"),
    ],
)
def test_other_images_are_refused_in_one_line(tmp_path, save, match):
    save(tmp_path / "film")
    with pytest.raises(ImageError, match=f"^film: (?:{match})") as caught:
        read(tmp_path / "film")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_oversized_images_are_refused_before_decoding(tmp_path, write_film):
    """One limit, that of the bundle's choices, in every format."""
    Image.fromarray(FILM).save(tmp_path / "film.png")
    Image.fromarray(FILM).save(tmp_path / "film.jpg")
    save_sitk(tmp_path / "film.nii", FILM)
    write_film(tmp_path / "film.dcm", FILM)
    for name, match in [
        ("film.png", "size: 5 x 7 is over 34 pixels"),
        ("film.jpg", "size: 5 x 7 is over 34 pixels"),
        ("film.nii", r"dim: \(7, 5\) is over 34 pixels"),
        ("film.dcm", "Rows: 5 x 7 x 1 pixels are none or too many; at most 34"),
    ]:
        with pytest.raises((DicomError, ImageError), match=f"^{name}: {match}"):
            read(tmp_path / name, choices=Choices(max_pixels=34))
        assert read(tmp_path / name, choices=Choices(max_pixels=35)).shape == (5, 7)


def test_a_window_beside_the_image_is_told_from_an_empty_image(tmp_path, write_film):
    path = write_film(tmp_path / "film", FILM, WindowCenter=-999, WindowWidth=2)
    with pytest.raises(ImageError, match=r"^film: pixels: all have one value; .* or outside its window"):
        read(path)


# -- within MONAI --


def test_a_refused_film_does_not_come_back_through_monais_readers(tmp_path, write_film):
    """LoadImage tries its own readers when ``read`` raises; PydicomReader would return this one, not inverted."""
    fields = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}
    path = write_film(tmp_path / "film.dcm", FILM, **fields)
    with pytest.raises(DicomError, match=r"^film\.dcm: PresentationLUTShape"):
        LoadImage(reader=FilmReader())(path)
    assert LoadImage(reader=FilmReader(Choices(polarity="shape")))(path).shape == (5, 7)


def test_several_files_are_not_one_film(films):
    with pytest.raises(ImageError, match=r"^a: files: a film is one file"):
        LoadImage(reader=FilmReader())(films[:2])


def test_reader_and_errors_pickle_for_workers():
    assert pickle.loads(pickle.dumps(FilmReader(Choices(polarity="shape")))).choices.polarity == "shape"
    kept = FilmReader()
    kept.get_data(kept.read(f"{pydicom.data.get_testdata_file('examples_ybr_color.dcm')}#frame=0"))
    assert len(pickle.dumps(kept)) < 1000  # without the file that it keeps
    assert str(pickle.loads(pickle.dumps(ImageError("a: b: c")))) == "a: b: c"


def test_no_identity_leaves_the_reader(tmp_path, write_film):
    secrets = {"PatientName": "Zebra^Quagga", "PatientID": "Z4711", "StudyDate": "20200131", "AccessionNumber": "Q99"}
    folder = tmp_path / "zebra_folder"
    folder.mkdir()
    image = LoadImage(reader=FilmReader())(write_film(folder / "film.dcm", FILM, **secrets))
    meta = {key: value for key, value in image.meta.items() if key != "filename_or_obj"}  # MONAI's own key
    with pytest.raises(DicomError) as caught:
        read(write_film(folder / "bad.dcm", FILM, HighBit=6, **secrets))
    with pytest.raises(ImageError) as missing:
        read(folder / "none.dcm")
    for text in (str(meta), str(caught.value), str(missing.value)):
        for secret in ("zebra", "quagga", "z4711", "20200131", "q99"):
            assert secret not in text.lower()


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")  # pydicom on damaged headers
def test_every_real_file_is_a_film_or_a_polite_refusal(real_data):
    files = sorted(path for path in (real_data / "dicom_reader/files").rglob("*") if path.is_file())
    assert len(files) >= 100
    films = 0
    for path in files:
        try:
            image = read(path)
        except (DicomError, ImageError) as error:
            assert str(error).startswith(f"{path.name}: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            continue
        films += 1
        assert image.ndim == 2
        assert image.dtype == np.float32
        assert image.min() >= 0
        assert image.max() <= 1
    assert films >= 10
