"""A volume is the same from a DICOM series, an enhanced file and a NIfTI, where SimpleITK puts it; or it is refused."""

from __future__ import annotations

import gzip
import pickle
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data import DataLoader, Dataset, NibabelReader
from monai.transforms import Compose, LoadImage, LoadImaged, Orientation, Orientationd
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, MRImageStorage
from rtda.transforms.display import Choices
from rtda.transforms.facts import NO_FACTS
from rtda.transforms.header import DicomError, NotAnImage
from rtda.transforms.reader import ImageError
from rtda.transforms.volume import VolumeReader, read_units, read_volume

WINDOW = Choices(hu_window=(40, 400))
STORED = np.random.default_rng(0).integers(0, 4096, (4, 5, 6), np.uint16)  # no two axes alike, no symmetry
SPACING = (0.75, 0.5)  # of rows, of columns
STEP = 2.5
ORIGIN = (-12.5, 30.25, 7)
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)) + 3 * np.eye(3))[0] @ np.diag([-1, -1, -1])
GEOMETRIES = {  # along a row and down a column, to the left, posterior and superior
    "axial": (1, 0, 0, 0, 1, 0),
    "turned": (-1, 0, 0, 0, -1, 0),
    "prone": (-1, 0, 0, 0, 1, 0),  # its normal points down
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": tuple(TURN.T[:2].ravel()),
}
PYDICOM_SERIES = Path(get_testdata_file("CT_small.dcm")).parent / "dicomdirtests"


def decimals(numbers):
    return [f"{number:.9f}"[:16] for number in numbers]


def place(k, orientation, step=STEP):
    along, down = np.reshape(orientation, (2, 3))
    return decimals(ORIGIN + k * step * np.cross(along, down))


@pytest.fixture
def write_series(tmp_path, write_film):
    """Write (slices, rows, columns) as a CT series whose names and instance numbers go against its places."""

    def write(stored=STORED, orientation=GEOMETRIES["axial"], folder="series", each=None, **fields):
        (tmp_path / folder).mkdir(exist_ok=True)
        base = {"SOPClassUID": CTImageStorage, "Modality": "CT", "SeriesInstanceUID": "1.2.3", "BitsStored": 16}
        base |= {"ImageOrientationPatient": decimals(orientation), "PixelSpacing": list(SPACING)}
        base |= {"RescaleSlope": 1, "RescaleIntercept": -1024, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}
        for k, pixels in enumerate(stored):
            own = {"ImagePositionPatient": place(k, orientation), "SOPInstanceUID": f"1.2.3.{k + 1}"}
            own |= {"InstanceNumber": 9 - k} | fields | (each or {}).get(k, {})
            write_film(tmp_path / folder / f"slice{k * 3 % 7}", pixels, **base | own)
        return tmp_path / folder

    return write


def name(k):
    return f"slice{k * 3 % 7}"


@pytest.fixture
def write_enhanced(tmp_path, write_film):
    """Write slices as frames of one enhanced CT file, in the given order, with a rescale of each its own."""

    def sequence(**fields):
        item = pydicom.Dataset()
        for field, value in fields.items():
            setattr(item, field, value)
        return [item]

    def write(stored=STORED, order=(2, 0, 3, 1), orientation=GEOMETRIES["axial"], intercepts=(-1024,) * 4, **fields):
        shared = sequence(
            PlaneOrientationSequence=sequence(ImageOrientationPatient=decimals(orientation)),
            PixelMeasuresSequence=sequence(PixelSpacing=list(SPACING), SliceThickness=1),
            CTImageFrameTypeSequence=sequence(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]),
        )
        each = [
            sequence(
                PlanePositionSequence=sequence(ImagePositionPatient=place(k, orientation)),
                PixelValueTransformationSequence=sequence(
                    RescaleSlope=1, RescaleIntercept=intercepts[k], RescaleType="HU"
                ),
            )[0]
            for k in order
        ]
        groups = {"SharedFunctionalGroupsSequence": shared, "PerFrameFunctionalGroupsSequence": each}
        base = {"SOPClassUID": EnhancedCTImageStorage, "Modality": "CT", "SeriesInstanceUID": "1.2.3"}
        base |= {"BitsStored": 16, **groups}
        return write_film(tmp_path / "enhanced", stored[list(order)], **base | fields)

    return write


def simpleitk(folder):
    """Values and affine of a series as SimpleITK reads it, turned by nibabel; as (depth, rows, columns) and to RAS."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return as_spl(reader.Execute())


def as_spl(image):
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    stored = nib.Nifti1Image(sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ lps)
    goal = nib.orientations.axcodes2ornt("LPS")
    turned = stored.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(stored.affine), goal))
    return np.asarray(turned.dataobj).T, turned.affine[:, [2, 1, 0, 3]]


def load(source, choices=WINDOW, **options):
    return LoadImage(reader=VolumeReader(choices, **options), ensure_channel_first=True)(source)


# -- where voxels lie --


@pytest.mark.parametrize("orientation", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize(
    ("kind", "slope", "intercept"), [(np.uint16, 1, -1024), (np.int16, 1, 0), (np.int16, 0.5, 3), (np.uint16, -2, 7)]
)
def test_hounsfield_values_and_affine_are_those_of_simpleitk(write_series, orientation, kind, slope, intercept):
    stored = (STORED.astype(np.int64) - (2048 if kind == np.int16 else 0)).astype(kind)
    signed = int(kind == np.int16)
    folder = write_series(
        stored, orientation, RescaleSlope=slope, RescaleIntercept=intercept, PixelRepresentation=signed
    )
    units, affine = read_units(folder)
    values, reference = simpleitk(folder)
    assert units.dtype == np.float32
    assert np.array_equal(units, values.astype(np.float32))
    np.testing.assert_allclose(affine, reference, atol=1e-6)
    assert nib.aff2axcodes(affine) == ("S", "P", "L")


@pytest.mark.parametrize("orientation", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_voxel_is_where_the_header_says(write_series, orientation):
    """PS3.3 C.7.6.2.1.1: P = S + X Δi i + Y Δj j, i along a row."""
    units, affine = read_units(write_series(orientation=orientation))
    along, down = np.reshape(orientation, (2, 3))
    for (k, row, column), stored in np.ndenumerate(STORED):
        lps = np.array(ORIGIN) + k * STEP * np.cross(along, down)
        lps = lps + column * SPACING[1] * along + row * SPACING[0] * down
        index = np.linalg.solve(affine, [-lps[0], -lps[1], lps[2], 1])[:3]
        np.testing.assert_allclose(index, index.round(), atol=1e-5)
        assert units[tuple(index.round().astype(int))] == int(stored) - 1024


def test_an_axial_series_stays_as_it_is_stored(write_series):
    units, affine = read_units(write_series())
    assert np.array_equal(units, STORED.astype(np.float32) - 1024)
    expected = [[0, 0, -0.5, 12.5], [0, -0.75, 0, -30.25], [2.5, 0, 0, 7], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected, atol=1e-9)


def test_pydicoms_own_series():
    units, affine = read_units(PYDICOM_SERIES / "98892001/CT5N")
    values, reference = simpleitk(PYDICOM_SERIES / "98892001/CT5N")
    assert np.array_equal(units, values)
    np.testing.assert_allclose(affine, reference, atol=1e-9)


@pytest.mark.data
def test_a_real_series(real_data):
    folder = real_data / "nifti_3d/dicom_ct_series"
    with pytest.raises(DicomError, match=r"^IMG0001\.dcm: RescaleType: values in 'US', not known to be HU"):
        read_units(folder)
    units, affine = read_units(folder, Choices(allow_rescale_type=True))
    values, reference = simpleitk(folder)
    assert units.shape == (17, 128, 88)
    assert np.array_equal(units, values)
    np.testing.assert_allclose(affine, reference, atol=1e-6)


def test_files_in_any_order_are_one_volume(write_series):
    folder = write_series()
    units, affine = read_units(folder)
    for paths in (sorted(folder.iterdir()), sorted(map(str, folder.iterdir()), reverse=True)):
        again, same = read_units(paths)
        assert np.array_equal(again, units)
        assert np.array_equal(same, affine)


@pytest.mark.parametrize("orientation", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_frames_of_an_enhanced_file_are_sorted_like_a_series(write_series, write_enhanced, orientation, order):
    units, affine = read_units(write_series(orientation=orientation))
    frames, same = read_units(write_enhanced(orientation=orientation, order=order))
    assert np.array_equal(frames, units)
    assert np.array_equal(same, affine)


def test_a_sorted_enhanced_file_lies_where_simpleitk_puts_it(write_enhanced):
    path = write_enhanced(order=(0, 1, 2, 3))
    units, affine = read_units(path)
    values, reference = as_spl(sitk.ReadImage(path))
    assert np.array_equal(units, values)
    np.testing.assert_allclose(affine, reference, atol=1e-6)


def test_every_frame_has_its_own_rescale(write_enhanced):
    units, _ = read_units(write_enhanced(intercepts=(0, 10, 200, 3000)))
    assert np.array_equal(units - STORED, np.broadcast_to(np.reshape([0, 10, 200, 3000], (4, 1, 1)), units.shape))
    assert read_volume(write_enhanced(intercepts=(0, 1, 2, 3)), WINDOW).meta["rescale"] == "differs by slice"


# -- what voxels hold --


def test_intensities_are_the_bundles_window_of_the_units(write_series):
    folder = write_series()
    image = read_volume(folder, WINDOW)
    units, affine = read_units(folder)
    assert image.shape == (1, 4, 5, 6)
    assert image.dtype == torch.float32
    expected = ((units.astype(np.float64) - 40) / 400 + 0.5).clip(0, 1).astype(np.float32)
    assert 0.05 < expected.mean() < 0.95  # not all black or white
    assert np.array_equal(image.as_tensor()[0].numpy(), expected)
    assert np.array_equal(image.affine.numpy(), affine)
    assert image.meta["window"] == "40/400 HU of the bundle"
    assert set(NO_FACTS) <= set(image.meta)


def test_padding_has_no_units_and_is_black(write_series):
    stored = STORED.astype(np.int16)
    stored[1, 2:, :3] = -2000
    folder = write_series(stored, PixelRepresentation=1, PixelPaddingValue=-2000)
    units, _ = read_units(folder)
    padding = stored == -2000
    assert np.array_equal(np.isnan(units), padding)
    assert np.array_equal(units[~padding], simpleitk(folder)[0][~padding])
    bright = read_volume(folder, Choices(hu_window=(-4000, 100)))  # in which the padding would be white
    assert (bright.as_tensor()[0].numpy() == 0)[padding].all()
    assert (bright.as_tensor()[0].numpy() == 1)[~padding].all()
    assert bright.meta["padding"] is True  # though the first slice has none


def test_ct_without_a_window_is_refused_and_has_units_all_the_same(write_series):
    folder = write_series()
    with pytest.raises(DicomError, match="Modality: CT needs hu_window among the bundle's choices"):
        read_volume(folder)
    assert read_units(folder)[0].min() >= -1024


MR = {"Modality": "MR", "SOPClassUID": MRImageStorage, "RescaleSlope": None, "RescaleIntercept": None}


def test_mr_takes_the_range_of_the_bundle(write_series):
    image = read_volume(write_series(**MR), Choices(intensity={"range": (100, 3100)}))
    expected = ((STORED - 100.0) / 3000).clip(0, 1).astype(np.float32)
    assert np.array_equal(image.as_tensor()[0].numpy(), expected)


@pytest.mark.parametrize(
    ("fields", "each", "match"),
    [
        ({"WindowCenter": 500, "WindowWidth": 90}, {2: {"WindowCenter": 501}}, f"{name(2)}: WindowCenter: differs"),
        ({}, {}, f"{name(0)}: WindowCenter: not used, and percentiles would be each slice's own"),
    ],
)
def test_one_grey_level_means_one_thing_in_a_volume(write_series, fields, each, match):
    with pytest.raises(DicomError, match=f"^{match}"):
        read_volume(write_series(each=each, **MR | fields), Choices(intensity={"percentiles": (1, 99)}))


def test_mr_with_a_window_of_each_slice_is_read_by_the_bundles_range(write_series):
    """What MR scanners write; the refusal names the choices that read it."""
    folder = write_series(each={k: {"WindowCenter": 500 + k, "WindowWidth": 90} for k in range(4)}, **MR)
    cure = "name the bundle's own range: intensity, and voi 'intensity'"
    with pytest.raises(DicomError, match=f"WindowCenter: differs between slices; {cure}"):
        read_volume(folder, Choices(intensity={"range": (100, 3100)}))
    image = read_volume(folder, Choices(intensity={"range": (100, 3100)}, voi="intensity"))
    expected = ((STORED - 100.0) / 3000).clip(0, 1).astype(np.float32)
    assert np.array_equal(image.as_tensor()[0].numpy(), expected)
    assert image.meta["window"] == "range 100..3100 of the bundle"
    with pytest.raises(DicomError, match=f"^{name(0)}: WindowCenter: not used, and percentiles would be each slice's"):
        read_volume(folder, Choices(intensity={"percentiles": (1, 99)}, voi="intensity"))


def test_a_crop_would_move_the_origin(write_series):
    region = pydicom.Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 1, 1
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 4, 4
    folder = write_series(STORED // 16, Modality="US", BitsStored=16, SequenceOfUltrasoundRegions=[region])
    with pytest.raises(DicomError, match=f"^{name(0)}: ImagePositionPatient: not that of the cropped"):
        read_volume(folder)


# -- refusals --


def at(*position):
    return {"ImagePositionPatient": decimals(position)}


ELSEWHERE = (ORIGIN[0], ORIGIN[1], ORIGIN[2] + 2 * STEP)
REFUSED = {  # what is wrong with the third of four slices -> file and field named
    "gap": ({3: at(*ORIGIN[:2], ORIGIN[2] + 5 * STEP)}, rf"{name(3)}: ImagePositionPatient: 7.5 mm from {name(2)}, "),
    "uneven": ({2: at(*ORIGIN[:2], ELSEWHERE[2] + 0.2 * STEP)}, r"slice\d: ImagePositionPatient: \S+ mm from"),
    "duplicate": ({3: at(*ELSEWHERE)}, r"slice\d: ImagePositionPatient: also that of slice\d; leave one out"),
    "tilt": (
        {k: at(ORIGIN[0], ORIGIN[1] + 0.4 * k, ORIGIN[2] + k * STEP) for k in range(4)},
        rf"{name(3)}: ImagePositionPatient: 1.6 pixels beside the normal of the first slice \(gantry tilt\)",
    ),
    "series": ({2: {"SeriesInstanceUID": "1.2.4"}}, rf"slice\d: SeriesInstanceUID: not that of {name(0)}; name one"),
    "spacing": ({2: {"PixelSpacing": [0.75, 0.51]}}, rf"{name(2)}: PixelSpacing: not that of {name(0)}; resample"),
    "orientation": (
        {2: {"ImageOrientationPatient": decimals(GEOMETRIES["coronal"])}},
        rf"{name(2)}: ImageOrientationPatient: not that of {name(0)}; leave out localizers",
    ),
    "a degree": (
        {2: {"ImageOrientationPatient": ["0.999848", "0.017452", "0", "-0.017452", "0.999848", "0"]}},
        rf"{name(2)}: ImageOrientationPatient: not that of",
    ),
    "no position": ({2: {"ImagePositionPatient": None}}, rf"{name(2)}: ImagePositionPatient: missing"),
    "no orientation": ({2: {"ImageOrientationPatient": None}}, rf"{name(2)}: ImageOrientationPatient: missing"),
    "skewed": (
        {2: {"ImageOrientationPatient": [1, 0, 0, "0.1", 1, 0]}},
        rf"{name(2)}: ImageOrientationPatient: is not two unit vectors",
    ),
    "no spacing": ({2: {"PixelSpacing": None}}, rf"{name(2)}: PixelSpacing: missing"),
    "zero spacing": ({2: {"PixelSpacing": [0, 1]}}, rf"{name(2)}: PixelSpacing: is not above 0"),
    "localizer": (
        {2: {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}},
        rf"{name(2)}: RescaleType: localizer, not known to be HU",
    ),
    "for processing": (
        {2: {"PresentationIntentType": "FOR PROCESSING"}},
        rf"{name(2)}: PresentationIntentType: FOR PROCESSING",
    ),
}


@pytest.mark.parametrize(("each", "match"), REFUSED.values(), ids=REFUSED)
def test_a_series_that_is_no_volume_is_refused_in_one_line(write_series, each, match):
    folder = write_series(each=each)
    for read in (read_units, lambda source: read_volume(source, WINDOW), load):
        with pytest.raises(DicomError, match=f"^{match}") as caught:
            read(folder)
        assert "\n" not in str(caught.value)
        assert str(folder) not in str(caught.value)
        assert "1.2.3" not in str(caught.value)  # UIDs identify


def test_mixed_sizes_are_refused(write_series, tmp_path):
    folder = write_series()
    other = write_series(STORED[:, :4], folder="other")
    shutil.copy(other / name(2), folder / name(2))
    with pytest.raises(DicomError, match=rf"^{name(2)}: Rows: not that of {name(0)}; leave out"):
        read_units(folder)


def test_simpleitk_guesses_what_is_refused_here(write_series):
    """Why positions are not SimpleITK's: without the fields it states identity, 0 and 1 mm."""
    folder = write_series(ImageOrientationPatient=None, ImagePositionPatient=None, PixelSpacing=None)
    image = sitk.ReadImage(folder / name(0), imageIO="GDCMImageIO")
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert image.GetOrigin() == (0, 0, 0)
    assert image.GetSpacing()[:2] == (1, 1)


@pytest.mark.parametrize(
    "each",
    [
        {2: at(*ORIGIN[:2], ELSEWHERE[2] + 0.05 * STEP)},
        {k: at(ORIGIN[0], ORIGIN[1] + 0.01 * k, ORIGIN[2] + k * STEP) for k in range(4)},
        {2: {"PixelSpacing": ["0.75", "0.500001"]}},
        {2: {"ImageOrientationPatient": ["1", "0.00001", "0", "-0.00001", "1", "0"]}},
    ],
)
def test_rounded_headers_are_read(write_series, each):
    units, affine = read_units(write_series(each=each))
    assert np.array_equal(units, STORED - 1024.0)
    assert affine[2, 0] == pytest.approx(STEP)


def test_one_slice_is_no_volume(write_series):
    with pytest.raises(DicomError, match=f"^{name(0)}: SeriesInstanceUID: one slice is no volume"):
        read_units(write_series(STORED[:1]) / name(0))


def test_frames_that_do_not_say_where_they_lie_are_refused(write_film, tmp_path):
    path = write_film(tmp_path / "loop", STORED, BitsStored=16, SeriesInstanceUID="1.2")
    with pytest.raises(DicomError, match=r"^loop: PerFrameFunctionalGroupsSequence: does not say where the 4 frames"):
        read_units(path)


def test_a_frame_is_named_in_its_refusal(write_enhanced):
    path = write_enhanced()
    header = pydicom.dcmread(path)
    del header.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    header.save_as(path)
    with pytest.raises(DicomError, match=r"^enhanced#frame=2: ImagePositionPatient: missing"):
        read_units(path)


def test_a_limit_on_pixels_holds(write_enhanced):
    with pytest.raises(DicomError, match=r"^enhanced: Rows: 5 x 6 x 4 pixels are none or too many"):
        read_units(write_enhanced(), Choices(max_pixels=119))
    assert read_units(write_enhanced(), Choices(max_pixels=120))[0].shape == (4, 5, 6)


# -- what lies in a folder --


def test_what_is_no_image_is_passed_over(write_series):
    folder = write_series()
    units, _ = read_units(folder)
    for source in ("reportsi.dcm", "liver_1frame.dcm", "DICOMDIR"):  # a report, a segmentation, a directory
        shutil.copy(get_testdata_file(source), folder)
    (folder / "notes.txt").write_text("seen")
    (folder / "more").mkdir()
    assert np.array_equal(read_units(folder)[0], units)
    with pytest.raises(NotAnImage, match=r"^reportsi\.dcm: "):
        read_units([*folder.glob("slice*"), folder / "reportsi.dcm"])  # but not where it was asked for


def test_a_damaged_slice_is_not_passed_over(write_series):
    folder = write_series()
    path = folder / name(3)  # the last one: without it the others are a sound, shorter volume
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DicomError, match=rf"^{name(3)}: "):
        read_units(folder)


def test_one_of_several_series_can_be_named(write_series):
    folder = write_series()
    other = write_series(STORED[::-1], folder="other", SeriesInstanceUID="1.2.4")
    for path in other.iterdir():
        shutil.copy(path, folder / f"{path.name}b")
    for uid, stored in (("1.2.3", STORED), ("1.2.4", STORED[::-1])):
        assert np.array_equal(read_units(folder, series=uid)[0], stored - 1024.0)
        assert load(folder, series=uid).shape == (1, 4, 5, 6)
    with pytest.raises(DicomError, match=r"^series: SeriesInstanceUID: no image of this series"):
        read_units(folder, series="1.2.5")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None], ids=["empty", "absent"])
def test_no_files_are_no_volume(tmp_path, make):
    make(tmp_path / "none")
    with pytest.raises(ValueError, match=r"^none: ") as caught:
        load(tmp_path / "none")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "match"),
    [
        ("77654033/CT2", "17136: ImagePositionPatient: 202.5 mm from 17106, others 1.25 mm"),
        ("98892001/CT2N", "6924: ImageOrientationPatient: not that of 6293; leave out localizers"),
        ("98892003/MR700", "4528: ImageOrientationPatient: not that of 4467"),
        ("98892003/MR1", "4919: SeriesInstanceUID: not that of 15820; name one of the series"),
    ],
)
def test_real_folders_that_are_no_volume(folder, match):
    with pytest.raises(DicomError, match=f"^{match}"):
        read_units(PYDICOM_SERIES / folder)


# -- NIfTI --


def as_nifti(folder, path, **options):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    sitk.WriteImage(reader.Execute(), path, imageIO="NiftiImageIO", **options)
    return path


@pytest.mark.parametrize("orientation", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("slope", [1, 0.5])
def test_a_nifti_gives_what_its_series_gives(write_series, tmp_path, orientation, slope):
    folder = write_series(orientation=orientation, RescaleSlope=slope)
    image, nifti = load(folder), load(as_nifti(folder, tmp_path / "volume.nii.gz"))
    assert torch.equal(nifti.as_tensor(), image.as_tensor())
    torch.testing.assert_close(nifti.affine, image.affine, atol=1e-5, rtol=0)  # NIfTI holds float32
    assert nifti.meta["film_window"] == image.meta["film_window"]
    assert list(nifti.meta["spatial_shape"]) == list(image.meta["spatial_shape"]) == list(image.shape[1:])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "AIL", "PSR"])
def test_the_storage_order_of_a_nifti_does_not_matter(write_series, tmp_path, codes):
    folder = write_series(orientation=GEOMETRIES["oblique"])
    stored = nib.load(as_nifti(folder, tmp_path / "volume.nii"))
    start, goal = nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt(codes)
    turned = stored.as_reoriented(nib.orientations.ornt_transform(start, goal))
    assert "".join(nib.aff2axcodes(turned.affine)) == codes
    nib.save(turned, tmp_path / "turned.nii")
    image, nifti = load(folder), load(tmp_path / "turned.nii")
    assert torch.equal(nifti.as_tensor(), image.as_tensor())
    torch.testing.assert_close(nifti.affine, image.affine, atol=1e-5, rtol=0)


def test_the_content_decides_and_not_the_suffix(write_series, tmp_path):
    path = as_nifti(write_series(), tmp_path / "volume.nii")
    expected = load(path)
    (tmp_path / "volume").write_bytes(path.read_bytes())
    (tmp_path / "volume.dcm").write_bytes(gzip.compress(path.read_bytes()))
    for other in ("volume", "volume.dcm"):
        image = load(tmp_path / other)
        assert torch.equal(image.as_tensor(), expected.as_tensor())
        assert torch.equal(image.affine, expected.affine)


def test_the_array_is_that_of_monais_reader_reoriented(write_series, tmp_path):
    path = as_nifti(write_series(orientation=GEOMETRIES["oblique"]), tmp_path / "volume.nii")
    monai = Orientation("SPL", labels=None)(LoadImage(reader=NibabelReader(), ensure_channel_first=True)(path))
    ours = load(path)
    expected = ((monai.as_tensor().double() - 40) / 400 + 0.5).clamp(0, 1).float()
    assert torch.equal(ours.as_tensor(), expected)
    torch.testing.assert_close(ours.affine, monai.affine)


@pytest.mark.parametrize(
    ("array", "choices", "expected", "window"),
    [
        (STORED.astype(np.uint8), WINDOW, STORED.astype(np.uint8) / 255, ""),
        (STORED, WINDOW, STORED / 65535, ""),
        ((STORED / 4096).astype(np.float32), WINDOW, (STORED / 4096).astype(np.float32), ""),
        (STORED.astype(">i2"), WINDOW, ((STORED - 40.0) / 400 + 0.5).clip(0, 1), "40/400 HU of the bundle"),
        (STORED.astype(np.float32), WINDOW, ((STORED - 40.0) / 400 + 0.5).clip(0, 1), "40/400 HU of the bundle"),
        (
            STORED.astype(np.int16),
            Choices(intensity={"range": (9, 3009)}),
            ((STORED - 9.0) / 3000).clip(0, 1),
            "range 9..3009 of the bundle",
        ),
        (
            STORED.astype(np.int16),
            Choices(intensity={"percentiles": (0, 100)}),
            (STORED - float(STORED.min())) / float(STORED.max() - STORED.min()),
            "percentiles 0..100 of the bundle",
        ),
    ],
)
def test_the_scale_of_a_nifti(tmp_path, array, choices, expected, window):
    nib.save(nib.Nifti1Image(array.T, np.diag([-1, -1, 1, 1])), tmp_path / "volume.nii")
    image = load(tmp_path / "volume.nii", choices)
    assert np.array_equal(image.as_tensor()[0].numpy(), expected.astype(np.float32))
    assert image.meta["film_window"] == window


def test_a_trailing_axis_of_one_is_no_axis(tmp_path):
    nib.save(nib.Nifti1Image(STORED.T[..., None], np.diag([-1, -1, 1, 1])), tmp_path / "volume.nii")
    assert load(tmp_path / "volume.nii").shape == (1, 4, 5, 6)


def unstated(array):
    return nib.Nifti1Image(array, None)


def stated(array):
    return nib.Nifti1Image(array, np.eye(4))


@pytest.mark.parametrize(
    ("image", "choices", "match"),
    [
        (stated(STORED.astype(np.int16)), Choices(), "datatype: int16 has no full scale"),
        (stated(STORED.astype(np.float32)), Choices(), "datatype: float32 has no full scale"),
        (
            stated(STORED.astype(np.int16)),
            Choices(hu_window=(0, 1), intensity={"range": (0, 1)}),
            "datatype: .* name either hu_window or intensity",
        ),
        (stated(STORED.astype(np.complex64)), WINDOW, "datatype: complex64 is neither"),
        (stated(np.where(STORED > 400, STORED, np.nan)), WINDOW, "pixels: hold NaN"),
        (
            stated(np.where(STORED > 400, STORED, np.nan)),
            Choices(intensity={"percentiles": (1, 99)}),
            "pixels: the perc",
        ),
        (stated(np.full((3, 3, 3), 7, np.uint8)), WINDOW, "pixels: all have one value"),
        (stated(np.stack([STORED, STORED], -1)), WINDOW, r"dim: \(4, 5, 6, 2\) is not one volume"),
        (stated(STORED[0]), WINDOW, r"dim: \(5, 6\) is not one volume"),
        (stated(STORED[:1]), WINDOW, r"dim: \(1, 5, 6\) is not one volume"),
        (stated(STORED), Choices(max_pixels=119), r"dim: \(4, 5, 6\) is over 119 voxels"),
        (unstated(STORED), WINDOW, "sform_code: states no orientation"),
    ],
)
def test_nifti_that_is_no_volume_is_refused_in_one_line(tmp_path, image, choices, match):
    nib.save(image, tmp_path / "volume.nii")
    with pytest.raises(ImageError, match=rf"^volume\.nii: {match}") as caught:
        load(tmp_path / "volume.nii", choices)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data: data[:400], "file: not readable|pixels: not decodable"),
        (lambda data: gzip.compress(data)[:-20], "file: not readable|pixels: not decodable"),
        (lambda data: gzip.compress(b"text"), "format: gzip, but not of a NIfTI"),
        (lambda data: b"text", "file: not DICOM"),
        (lambda data: b"", "file: empty"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, match):
    nib.save(stated(STORED), tmp_path / "volume.nii")
    (tmp_path / "volume").write_bytes(damage((tmp_path / "volume.nii").read_bytes()))
    with pytest.raises(ValueError, match=f"^volume: (?:{match})") as caught:
        load(tmp_path / "volume")
    assert type(caught.value) in (DicomError, ImageError)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.data
@pytest.mark.parametrize(
    "file", ["anatomical.nii", "reoriented_anat_moved.nii", "someones_anatomy.nii.gz", "someones_epi.nii.gz"]
)
def test_real_nifti_volumes_are_those_of_simpleitk(real_data, file):
    path = real_data / "nifti_3d/nifti" / file
    values, affine = as_spl(sitk.ReadImage(path))
    low, high = float(values.min()) - 1, float(values.max()) + 1
    image = load(path, Choices(intensity={"range": (low, high)}))
    np.testing.assert_allclose(image.as_tensor()[0].numpy(), (values - low) / (high - low), atol=1e-6)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)


@pytest.mark.data
def test_other_real_nifti_files(real_data):
    folder = real_data / "nifti_3d/nifti"
    values, affine = as_spl(sitk.ReadImage(folder / "standard.nii.gz"))
    image = load(folder / "standard.nii.gz")
    assert np.array_equal(image.as_tensor()[0].numpy(), (values / 255).astype(np.float32))
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    for file in ("example4d.nii.gz", "functional.nii", "example_nifti2.nii.gz"):
        with pytest.raises(ImageError, match=f"^{file}: dim: .* is not one volume"):
            load(folder / file)
    with pytest.raises(ImageError, match=r"^resampled_anat_moved\.nii: pixels: hold NaN"):
        load(folder / "resampled_anat_moved.nii")


# -- within MONAI --


def test_series_and_nifti_through_one_chain_into_one_batch(write_series, tmp_path):
    folder = write_series(orientation=GEOMETRIES["sagittal"])
    reading = LoadImaged("image", reader=VolumeReader(WINDOW), ensure_channel_first=True, image_only=True)
    chain = Compose([reading, Orientationd("image", axcodes="RAS", labels=None)])
    sources = [folder, sorted(folder.iterdir()), as_nifti(folder, tmp_path / "volume.nii.gz")]
    batch = next(iter(DataLoader(Dataset([{"image": source} for source in sources], chain), batch_size=3)))["image"]
    assert batch.shape == (3, 1, 4, 6, 5)  # of sagittal slices: to the right, anterior and superior
    assert torch.equal(batch[0], batch[1])
    assert torch.equal(batch[0], batch[2])
    assert batch.meta["film_format"] == ["DICOM", "DICOM", "NIfTI"]
    assert {f"film_{key}" for key in NO_FACTS} <= set(batch.meta)
    assert nib.aff2axcodes(batch[0].affine) == ("R", "A", "S")


def test_a_refused_series_does_not_come_back_through_monais_readers(write_series):
    folder = write_series(each={3: at(*ORIGIN[:2], ORIGIN[2] + 5 * STEP)})
    with pytest.raises(DicomError, match="ImagePositionPatient"):
        LoadImage(reader=VolumeReader(WINDOW))(folder)


def test_no_identity_leaves_the_reader(write_series):
    secrets = {"PatientName": "Zebra^Quagga", "PatientID": "Z4711", "StudyDate": "20200131"}
    folder = write_series(folder="zebra_folder", **secrets)
    image, named = load(folder), load(folder, hashed=lambda plain: f"hash of {len(plain)}")
    for secret in ("zebra", "quagga", "z4711", "20200131", "1.2.3"):
        assert secret not in str({k: v for k, v in image.meta.items() if k != "filename_or_obj"}).lower()
    assert image.meta["film_patient_id"] == ""
    assert named.meta["film_patient_id"] == named.meta["film_series_id"] == "hash of 5"


def test_the_reader_pickles_for_workers():
    assert pickle.loads(pickle.dumps(VolumeReader(WINDOW, series="1.2"))).choices == WINDOW
