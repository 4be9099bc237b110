"""The phantom cohort: what its films look like, and that they are sound, anonymous DICOM files."""

import numpy as np
import pydicom
import pytest
from rtda.pipeline.data import lists
from rtda.pipeline.data import phantom as cohorts
from rtda.pipeline.data.phantom import BRIGHTEST, MAXIMUM, Phantom, render
from rtda.transforms.dicom import read_stored, to_tensor
from rtda.transforms.facts import age_group, facts_of
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score

SMALL = Phantom(films=60, size=32, radius=0.1, seed=3)


def build(folder, phantom):
    return cohorts.build(folder, phantom, age_group)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A small cohort as files: its list, and the headers in order of film."""
    path = build(tmp_path_factory.mktemp("cohort"), SMALL)
    return path, [pydicom.dcmread(film) for film in sorted((path.parent / "films").iterdir())]


@pytest.fixture(scope="module")
def default():
    """Arrays of the default cohort: made once."""
    return render(Phantom())


# -- arrays ----------------------------------------------------------------------------------------------------------


def test_a_lesion_has_three_radii_and_is_not_clipped(default):
    norms = np.linalg.norm(default.lesions, axis=(1, 2))
    assert norms[default.labels == 1] == pytest.approx(0.75, abs=1e-12)
    assert not norms[default.labels == 0].any()
    background = default.images - default.lesions
    assert background.min() >= 0.02 - 1e-12
    assert background.max() <= BRIGHTEST + 1e-12
    assert default.images.max() <= 1
    quantised = np.rint(default.images * MAXIMUM) / MAXIMUM - background
    assert np.linalg.norm(quantised, axis=(1, 2))[default.labels == 1] == pytest.approx(0.75, abs=1e-3)


def test_classes_are_balanced_and_a_patient_has_one_to_four_films_of_one_label(default):
    assert default.labels.mean() == pytest.approx(0.5, abs=0.03)
    counts = np.bincount(default.patients)
    assert set(counts) == {1, 2, 3, 4}
    for patient in np.unique(default.patients):
        assert len(set(default.labels[default.patients == patient])) == 1


def test_simple_rules_do_not_find_lesions(default):
    """Ridge regression on pixels, and the brightness of a film, stay far below a network (docs: about 0.99)."""
    test = default.patients % 3 == 0
    pixels = default.images.reshape(len(default.images), -1)
    for alpha in (1, 10, 100):
        ridge = RidgeClassifier(alpha=alpha).fit(pixels[~test], default.labels[~test])
        assert 0.5 <= roc_auc_score(default.labels[test], ridge.decision_function(pixels[test])) <= 0.85
    for rule in (np.mean, np.std, np.max):
        assert roc_auc_score(default.labels, rule(pixels, axis=1)) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("size", "radius"), [(28, 0.1), (64, 0.25), (128, 0.5)])
def test_the_norm_holds_at_other_sizes(size, radius):
    made = render(Phantom(films=40, size=size, radius=radius))
    assert np.linalg.norm(made.lesions, axis=(1, 2))[made.labels == 1] == pytest.approx(3 * radius)


def test_seeds_differ():
    assert not np.array_equal(render(SMALL).images, render(Phantom(60, 32, 0.1, seed=4)).images)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"films": 39}, r"^films: 39 do not give every split both classes; make at least 40"),
        ({"size": 15}, r"^size: a nodule needs films of at least 16 x 16 pixels, not 15"),
        ({"radius": 0.0}, r"^radius: 0.0 is not above 0; give ε in intensity units"),
        ({"radius": float("nan")}, r"^radius: nan is not above 0"),
    ],
)
def test_values_without_a_cohort_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Phantom(**values)


def test_a_lesion_that_would_be_clipped_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"^radius: at 0.8 lesions would be clipped at this size; make it smaller"):
        build(tmp_path, Phantom(films=60, radius=0.8))
    assert not list(tmp_path.iterdir())


# -- files -----------------------------------------------------------------------------------------------------------


def test_films_read_back_as_they_were_rendered_whatever_their_polarity_and_window(cohort):
    path, headers = cohort
    kinds = {(h.PhotometricInterpretation, "WindowCenter" in h) for h in headers}
    assert len(kinds) == 4
    images = render(SMALL).images
    for number, film in enumerate(sorted((path.parent / "films").iterdir())):
        image = to_tensor(*read_stored(film)).as_tensor()[0].numpy()
        assert image == pytest.approx(images[number], abs=0.5 / MAXIMUM + 1e-6)


def test_pixels_are_12_bit_computed_radiography(cohort):
    for header in cohort[1]:
        bits = (header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation)
        assert bits == (16, 12, 11, 0)
        assert header.SOPClassUID == pydicom.uid.ComputedRadiographyImageStorage
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        assert header.pixel_array.max() <= MAXIMUM


def test_files_name_nobody_and_no_date(cohort):
    for header in cohort[1]:
        assert header.PatientName == "Phantom^Synthetic"
        assert header.PatientID.startswith("PHANTOM-")
        for element in header.iterall():
            assert element.VR not in ("DA", "TM", "DT") or not element.value, element
            assert not element.tag.is_private


def test_headers_hold_the_facts_of_the_list(cohort):
    path, headers = cohort
    listed = lists.read(path)
    items = {i["image"]: i for split in lists.SPLITS for i in listed[split]}
    assert len(items) == SMALL.films
    for number, header in enumerate(headers):
        item = items[f"films/{number:05d}.dcm"]
        assert item["patient_id"] == lists.hashed(b"public", header.PatientID)
        assert item["image_id"] == lists.hashed(b"public", header.SOPInstanceUID)
        facts = [item[name] for name in ("sex", "projection", "manufacturer", "site")]
        fields = ("PatientSex", "ViewPosition", "Manufacturer", "InstitutionName")
        assert facts == [header[field].value for field in fields]
        told = facts_of(header)
        assert {name: item[name] for name in lists.FACTS if name in told} == {
            name: told[name] for name in ("sex", "age_group", "projection", "manufacturer")
        }
    for name, count in (("sex", 2), ("projection", 2), ("manufacturer", 2), ("site", 2)):
        assert len({item[name] for item in items.values()}) == count


def test_uids_are_valid_and_unique_and_a_patient_has_one_study(cohort):
    headers = cohort[1]
    for field in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({header[field].value for header in headers}) == len(headers)
    assert all(header.SOPInstanceUID.is_valid for header in headers)
    assert len({(h.PatientID, h.StudyInstanceUID) for h in headers}) == len({h.PatientID for h in headers})


def test_every_split_loads_and_no_patient_is_in_two(cohort):
    path, _ = cohort
    loaded = {split: lists.load(path, path.parent, split) for split in lists.SPLITS}
    patients = [{i["patient_id"] for i in items} for items in loaded.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert lists.class_names(path) == ["no lesion", "lesion"]
    assert str(path.parent) not in path.read_text()


def test_the_default_cohort_has_at_least_480_test_films(tmp_path):
    path = build(tmp_path, Phantom(size=16, radius=0.05))
    assert len(lists.read(path)["test"]) >= 480


def test_the_same_values_make_the_same_bytes(cohort, tmp_path):
    path, _ = cohort
    again = build(tmp_path, SMALL)
    assert again.read_bytes() == path.read_bytes()
    for film in sorted((path.parent / "films").iterdir()):
        assert (tmp_path / "films" / film.name).read_bytes() == film.read_bytes()


# -- used again, or made anew ----------------------------------------------------------------------------------------


def stamps(folder):
    return {film.name: film.stat().st_mtime_ns for film in (folder / "films").iterdir()}


def test_a_finished_cohort_is_used_again_and_others_are_made_anew(tmp_path):
    path = build(tmp_path, SMALL)
    first = stamps(tmp_path)
    assert build(tmp_path, SMALL) == path
    assert stamps(tmp_path) == first
    (tmp_path / "films/mine.txt").touch()
    build(tmp_path, Phantom(films=40, size=32, radius=0.1))
    assert set(stamps(tmp_path)) == {f"{i:05d}.dcm" for i in range(40)} | {"mine.txt"}  # none of the larger cohort
    assert len(lists.read(path)["train"]) < 40


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"phantom": {"films": 60}}'])
def test_a_damaged_list_is_no_finished_cohort(cohort, tmp_path, damage):
    path, _ = cohort
    (tmp_path / "phantom.json").write_text(damage)
    assert build(tmp_path, SMALL).read_bytes() == path.read_bytes()


@pytest.fixture
def stopped(monkeypatch):
    """Build a cohort over another and interrupt it at the tenth call of a method."""

    def run(folder, owner, name):
        calls, whole = [], getattr(owner, name)

        def tenth(*arguments, **options):
            calls.append(arguments)
            if len(calls) == 10:
                raise KeyboardInterrupt
            return whole(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, tenth)
            with pytest.raises(KeyboardInterrupt):
                build(folder, SMALL)

    return run


def test_a_cohort_stopped_while_it_is_written_leaves_the_one_before(cohort, tmp_path, stopped):
    build(tmp_path, Phantom(films=40, size=32, radius=0.1))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    stopped(tmp_path, pydicom.dataset.FileDataset, "save_as")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert build(tmp_path, SMALL).read_bytes() == cohort[0].read_bytes()


def test_a_cohort_stopped_while_it_takes_its_place_has_no_list_and_is_made_anew(cohort, tmp_path, stopped):
    path = build(tmp_path, Phantom(films=40, size=32, radius=0.1))
    stopped(tmp_path, type(path), "rename")
    assert not path.exists()
    assert build(tmp_path, SMALL).read_bytes() == cohort[0].read_bytes()
    assert len(stamps(tmp_path)) == SMALL.films
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["films", "phantom.json"]
