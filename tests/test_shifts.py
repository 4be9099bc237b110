"""Acquisition shifts: constants, laws, independent references, and that nothing trains on them."""

import io
import math
import re
import runpy
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Compose, RandGaussianNoise, Resize
from PIL import Image, ImageEnhance
from rtda.pipeline.attacks import PGD
from rtda.pipeline.balls import L2
from rtda.pipeline.data.phantom import Phantom, render
from rtda.pipeline.laws import check_severities, check_shift
from rtda.pipeline.seeding import derived_seed, forked
from rtda.pipeline.views import Augment, Chain, Clean, PerImage, seen
from rtda.transforms import noises, placing
from rtda.transforms.augmix import AugMix
from rtda.transforms.contrast import RandContrast, RandContrastd, RandWindow, RandWindowd
from rtda.transforms.degradation import pixelate, ringing
from rtda.transforms.intensity import RandomContrastBrightness, contrast, noise
from rtda.transforms.reader import FilmReader
from rtda.transforms.shifts import GROUPS, SHIFTS, Shift
from scipy import fft, ndimage

ROOT = Path(__file__).parents[1]
SEVERITIES = range(1, 6)
FLAT = ("collimation", "jpeg", "low_dose", "ultrasound_motion")
DRAWN = {
    *("gaussian_noise", "speckle_noise", "impulse_noise", "shot_noise", "low_dose", "ct_low_dose"),
    *("resolution", "ultrasound_speckle", "ultrasound_motion", "bias_field", "collimation"),
    *("rotation", "translation", "scale"),
}
kinds = pytest.mark.parametrize("kind", SHIFTS)


@pytest.fixture(scope="module")
def films():
    """Eight phantom films, (8, 1, 64, 64)."""
    return torch.from_numpy(render(Phantom(films=40)).images[:8].astype(np.float32))[:, None]


@pytest.fixture(scope="module")
def large(films):
    """Two films as 8-bit grey levels above 0, (2, 1, 224, 224): smooth, and with a grain."""
    grain = torch.randn(1, 1, 224, 224, generator=torch.Generator().manual_seed(0)) * torch.tensor([0, 0.05]).view(
        2, 1, 1, 1
    )
    resized = torch.nn.functional.interpolate(films[:2], (224, 224), mode="bilinear") + grain
    return (resized * 255).round().clamp(1, 255) / 255


def severities(kind):
    return [Shift(kind, severity) for severity in SEVERITIES]


def drawn(shift, x, seed=0):
    torch.manual_seed(seed)
    return shift(x)


def pillow(x):
    """A film as Pillow's image, RGB as MedMNIST-C takes grey films."""
    return Image.fromarray((x * 255).round().to(torch.uint8).numpy()).convert("RGB")


def grey(image):
    return np.asarray(image, np.float64)[..., 0]


# Constants

CONSTANTS = {  # MedMNIST-C at 8acfd27, pneumoniamnist
    "contrast_down": (0.9, 0.8, 0.7, 0.6, 0.4),
    "contrast_up": (1.1, 1.2, 1.3, 1.4, 1.6),
    "gamma_down": (0.9, 0.8, 0.7, 0.6, 0.4),
    "gamma_up": (1.1, 1.2, 1.3, 1.4, 1.6),
    "brightness_down": (0.9, 0.8, 0.7, 0.6, 0.5),
    "brightness_up": (1.1, 1.2, 1.3, 1.4, 1.5),
    "gaussian_noise": (0.04, 0.05, 0.06, 0.07, 0.08),
    "speckle_noise": (0.05, 0.07, 0.10, 0.15, 0.20),
    "impulse_noise": (0.005, 0.01, 0.013, 0.017, 0.02),
    "shot_noise": (300, 200, 150, 100, 80),
    "blur": (3, 5, 7, 9, 11),
    "resolution": (0.8, 0.7, 0.6, 0.5, 0.4),
    "jpeg": (50, 30, 15, 10, 7),
}
ULTRASOUND = {  # the same, breastmnist
    "ultrasound_speckle": (0.10, 0.15, 0.20, 0.25, 0.30),
    "ultrasound_motion": ((5, 5), (9, 7), (9, 10), (13, 10), (17, 12)),
    "ultrasound_brightness_down": (0.55, 0.5, 0.45, 0.4, 0.3),
    "ultrasound_brightness_up": (1.4, 1.5, 1.6, 1.8, 2.0),
}
OURS = {
    "low_dose": (0.5, 0.25, 0.125, 0.0625, 0.03125),
    "ct_low_dose": (0.5, 0.25, 0.125, 0.0625, 0.03125),
    "window_narrow": (0.9, 0.8, 0.7, 0.6, 0.5),
    "window_wide": (1.1, 1.2, 1.4, 1.7, 2.0),
    "level_low": (-0.05, -0.1, -0.15, -0.2, -0.25),
    "level_high": (0.05, 0.1, 0.15, 0.2, 0.25),
    "bias_field": (0.15, 0.3, 0.45, 0.6, 0.75),
    "collimation": (0.02, 0.04, 0.06, 0.08, 0.1),
    "gibbs_ringing": (0.6, 0.5, 0.4, 0.3, 0.2),
    "rotation": (3, 6, 9, 12, 15),
    "translation": (0.02, 0.04, 0.06, 0.08, 0.1),
    "scale": (1.05, 1.1, 1.15, 1.2, 1.25),
}
SOURCES = {
    **dict.fromkeys(CONSTANTS, "MedMNIST-C, pneumonia"),
    **dict.fromkeys(ULTRASOUND, "MedMNIST-C, breast ultrasound"),
    **dict.fromkeys(OURS, "constants: ours"),
}


def test_the_constants_are_those_of_medmnist_c_and_ours():
    assert {name: kind.values for name, kind in SHIFTS.items()} == CONSTANTS | ULTRASOUND | OURS
    assert {name: kind.source for name, kind in SHIFTS.items()} == SOURCES


def test_the_groups():
    assert {
        *("contrast", "brightness", "gamma", "window", "noise", "blur", "resolution"),
        *("compression", "field", "geometry", "border", "ringing"),
    } == GROUPS


# Laws


@kinds
def test_a_shift_grows_with_its_severity(kind, films):
    check_severities(severities(kind), films)


@pytest.mark.parametrize("kind", [kind for kind in SHIFTS if kind not in FLAT])
def test_a_shift_of_volumes_grows_with_its_severity(kind, films):
    check_severities(severities(kind), films.reshape(2, 1, 4, 64, 64))


@pytest.mark.parametrize("kind", FLAT)
def test_a_shift_of_flat_images_refuses_volumes(kind, films):
    message = rf"^{kind}_2: images: 3 spatial axes, but it has a meaning in 2 only; leave it out for volumes$"
    with pytest.raises(ValueError, match=message):
        Shift(kind, 2)(films.reshape(2, 1, 4, 64, 64))


@kinds
@settings(max_examples=10, deadline=None)
@given(
    shape=st.sampled_from([(1, 1, 7, 9), (3, 2, 12, 8), (2, 1, 3, 6, 7)]),
    make=st.sampled_from([torch.rand, torch.zeros, torch.ones, lambda shape: torch.rand(shape).round()]),
    severity=st.sampled_from(SEVERITIES),
)
def test_every_shift_keeps_the_laws_on_any_image(kind, shape, make, severity):
    if kind not in FLAT or len(shape) == 4:
        check_shift(Shift(kind, severity), make(shape))


@kinds
def test_a_seed_and_the_place_in_the_shard_decide_the_draw(kind, films):
    def shard(k, x):
        with forked(derived_seed(0, "view", k), x.device):
            return Shift(kind, 3)(x)

    first = shard(0, films)
    assert torch.equal(first, shard(0, films))
    assert torch.equal(first, shard(1, films)) == (kind not in DRAWN)
    if kind != "shot_noise":  # where an image's counts take as many random numbers as their means ask for
        other = films.clone()
        other[2] = films[2].flip(-1)
        rest = [0, 1, 3, 4, 5, 6, 7]
        torch.testing.assert_close(shard(0, other)[rest], first[rest], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in SHIFTS if kind != "jpeg"])
def test_what_a_shift_makes_by_itself_lies_on_the_device_of_the_images(kind):
    """On the meta device nothing is computed, but tensors of two devices do not mix there either."""
    x = torch.rand(2, 1, 32, 32, device="meta")
    made = Shift(kind, 3)(x)
    assert (made.device, made.shape, made.dtype) == (x.device, x.shape, x.dtype)


@pytest.mark.parametrize("kind", ["gaussian_noise", "speckle_noise", "ultrasound_speckle", "low_dose", "ct_low_dose"])
def test_the_field_of_noise_is_the_same_at_every_severity(kind):
    x = torch.full((2, 1, 16, 16), 0.5)
    fields = [drawn(shift, x) - x for shift in severities(kind)]
    for a, b in pairwise(fields):
        inside = ((b.abs() < 0.49) & (a.abs() > 1e-3)).nonzero(as_tuple=True)
        ratio = (b / a)[inside]
        torch.testing.assert_close(ratio, ratio.median().expand_as(ratio), rtol=1e-3, atol=0)


def test_impulses_of_a_severity_are_among_those_of_the_next():
    x = torch.full((4, 1, 64, 64), 0.5)
    hit = [drawn(shift, x) != x for shift in severities("impulse_noise")]
    assert all((few <= many).all() for few, many in pairwise(hit))


@pytest.mark.parametrize("kind", ["blur", "resolution", "gibbs_ringing"])
def test_detail_is_lost_slice_by_slice(kind, films):
    volume = films.reshape(2, 1, 4, 64, 64)
    slices = torch.stack([drawn(Shift(kind, 4), volume[:, :, k]) for k in range(4)], 2)
    torch.testing.assert_close(drawn(Shift(kind, 4), volume), slices, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["rotation", "translation", "scale"])
def test_all_slices_of_a_volume_move_together(kind, films):
    film = films[:1]
    volume = film[:, :, None].expand(-1, -1, 4, -1, -1)
    expected = drawn(Shift(kind, 4), film)[:, :, None].expand_as(volume)
    torch.testing.assert_close(drawn(Shift(kind, 4), volume), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        ([lambda x: x], "none is the identity: distances 0"),
        ([lambda x: 0.9 * x, lambda x: 0.9 * x], r"the distance rises: (\S+), \1"),
        ([lambda x: 0.8 * x, lambda x: 0.9 * x], "the distance rises"),
        ([lambda x: 2 * x], "upper bound"),
    ],
)
def test_broken_severities_are_named_by_the_law_they_break(broken, law):
    with pytest.raises(AssertionError, match=law):
        check_severities(broken, torch.rand(2, 1, 4, 4))


# Names and facts


def test_what_a_shift_says_of_itself():
    shift = Shift("ultrasound_motion", 3)
    assert shift.name == "ultrasound_motion_3"
    stated = "radius, σ in pixels of 224: 9, 10"
    assert shift.facts == {"family": "shift", "group": "blur", "severity": 3, "parameter": stated, "flat": True}
    assert Shift("contrast_down", 5).facts["parameter"] == "factor 0.4"
    assert [kind for kind in SHIFTS if "flat" in Shift(kind, 1).facts] == [k for k, kind in SHIFTS.items() if kind.flat]
    assert Shift("gaussian_noise", 5).facts["parameter"] == "σ 0.08"


@pytest.mark.parametrize(
    ("kind", "severity", "message"),
    [
        ("fog", 1, "shift: 'fog' is unknown; choose one of"),
        ("contrast_down", 0, "severity: 0 is not one of"),
        ("contrast_down", 6, "severity: 6 is not one of"),
        ("contrast_down", 1.5, "severity: 1.5 is not one of"),
    ],
)
def test_an_unknown_shift_is_refused(kind, severity, message):
    with pytest.raises(ValueError, match=message):
        Shift(kind, severity)


# Against other code: grey levels at 224 x 224


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", ["brightness_down", "brightness_up", "ultrasound_brightness_up", "contrast_down"])
def test_brightness_and_contrast_are_pillows(kind, severity, large):
    """Pillow rounds the mean and cuts levels; the films have no black pixel, over which means would differ."""
    enhance = ImageEnhance.Contrast if kind.startswith("contrast") else ImageEnhance.Brightness
    for film in large[:, 0]:
        expected = grey(enhance(pillow(film)).enhance((CONSTANTS | ULTRASOUND)[kind][severity - 1]))
        made = Shift(kind, severity)(film[None, None])[0, 0].numpy() * 255
        assert np.abs(made - expected).max() <= 1.5


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", ["gamma_down", "gamma_up"])
def test_gamma_is_a_power(kind, severity, large):
    expected = large.numpy().astype(np.float64) ** CONSTANTS[kind][severity - 1]
    np.testing.assert_allclose(Shift(kind, severity)(large), expected, atol=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_is_torchvisions(severity, large):
    """Its σ where none is given, and its mirrored edge, by scipy."""
    kernel = CONSTANTS["blur"][severity - 1]
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    weights = np.exp(-0.5 * (np.linspace(-(kernel - 1) / 2, (kernel - 1) / 2, kernel) / sigma) ** 2)
    expected = large.numpy().astype(np.float64)
    for axis in (2, 3):
        expected = ndimage.correlate1d(expected, weights / weights.sum(), axis, mode="mirror")
    np.testing.assert_allclose(Shift("blur", severity)(large), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "lengths"), [(64, [3, 3, 3, 3, 3]), (224, [3, 5, 7, 9, 11]), (448, [5, 9, 13, 17, 21])]
)
def test_the_length_of_the_kernel_scales_and_is_odd_and_at_least_three(size, lengths):
    point = torch.zeros(1, 1, size, size)
    point[..., size // 2, size // 2] = 1
    for severity, length in zip(SEVERITIES, lengths, strict=True):
        row = Shift("blur", severity)(point)[0, 0, size // 2]
        assert int((row > 0).sum()) == length
        places = torch.arange(size) - size // 2
        scaled = (0.15 * CONSTANTS["blur"][severity - 1] + 0.35) * size / 224
        assert -2 * math.log(row[places == 1] / row[places == 0]) == pytest.approx(1 / scaled**2, rel=1e-3)


@pytest.mark.parametrize("size", [(224, 224), (96, 224)])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_resolution_is_pillows_box_there_and_back(severity, size, large):
    factor = CONSTANTS["resolution"][severity - 1]
    for film in large[:, 0, : size[0], : size[1]]:
        image = Image.fromarray(film.numpy())  # floats, so that nothing is rounded
        small = image.resize((int(size[1] * factor), int(size[0] * factor)), Image.Resampling.BOX)
        expected = np.asarray(small.resize(image.size, Image.Resampling.BOX))
        made = pixelate(film[None, None], factor, torch.zeros(2, 1))
        np.testing.assert_allclose(made[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("edge", [8, 9])
def test_the_grid_of_resolution_begins_anywhere(edge):
    """Blocks of two columns, begun in the corner, would always leave an edge at the eighth whole, at the ninth not."""
    x = torch.zeros(1000, 1, 16, 16)
    x[..., edge:] = 1
    whole = (drawn(Shift("resolution", 4), x) == x).flatten(1).all(1).float().mean()
    assert whole.item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_what_pillow_makes_of_the_film_in_rgb(severity, large):
    made = Shift("jpeg", severity)(large)
    for film, image in zip(made[:, 0], large[:, 0], strict=True):
        pillow(image).save(file := io.BytesIO(), "JPEG", quality=CONSTANTS["jpeg"][severity - 1])
        assert np.abs(film.numpy() * 255 - grey(Image.open(file))).max() <= 1 + 1e-4  # of its way over YCbCr


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_its_deviation(severity):
    x = torch.full((1, 1, 224, 224), 0.5)
    sigma = CONSTANTS["gaussian_noise"][severity - 1]
    made = drawn(Shift("gaussian_noise", severity), x)
    assert (made - x).std().item() == pytest.approx(sigma, rel=0.02)
    torch.manual_seed(0)
    assert torch.equal(made, noise(x, torch.tensor([sigma])))  # the draw that the preset "quick" has had


@pytest.mark.parametrize("kind", ["speckle_noise", "ultrasound_speckle"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_speckle_has_a_deviation_in_proportion_to_the_intensity(kind, severity):
    x = torch.tensor([0.0, 0.1, 0.4]).view(3, 1, 1, 1).expand(3, 1, 224, 224)
    made = (drawn(Shift(kind, severity), x) - x).flatten(1)
    expected = (CONSTANTS | ULTRASOUND)[kind][severity - 1] * torch.tensor([0.0, 0.1, 0.4])
    torch.testing.assert_close(made.std(1), expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_hits_its_share_half_black_half_white(severity):
    x = torch.full((8, 1, 224, 224), 0.5)
    made, share = drawn(Shift("impulse_noise", severity), x), CONSTANTS["impulse_noise"][severity - 1]
    for value in (0, 1):
        assert (made == value).float().mean().item() == pytest.approx(share / 2, rel=0.1)
    assert ((made == 0) | (made == 1) | (made == 0.5)).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_counts_photons_by_poissons_law(severity):
    photons = CONSTANTS["shot_noise"][severity - 1]
    x = torch.tensor([0.0, 0.02, 0.5]).view(3, 1, 1, 1).expand(3, 1, 224, 224)
    counts = (drawn(Shift("shot_noise", severity), x) * photons).flatten(1)
    torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)
    means = photons * torch.tensor([0.0, 0.02, 0.5])
    torch.testing.assert_close(counts.mean(1), means, rtol=0.02, atol=0)
    torch.testing.assert_close(counts.var(1), means, rtol=0.03, atol=0)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_sums_the_film_along_its_path(severity, large):
    """ImageMagick's weights, at 0 … 2·radius pixels, by scipy's interpolation."""
    radius, sigma = ULTRASOUND["ultrasound_motion"][severity - 1]
    made = drawn(Shift("ultrasound_motion", severity), large)
    torch.manual_seed(0)
    for film, image, angle in zip(made[:, 0], large[:, 0], (torch.rand(2) - 0.5) * math.pi / 2, strict=True):
        path = np.arange(2 * radius + 1)
        weights = np.exp(-(path**2) / (2 * sigma**2))
        places = np.mgrid[:224, :224].astype(np.float64)
        direction = np.array([math.sin(angle), math.cos(angle)])[:, None, None]
        parts = [
            weight
            * ndimage.map_coordinates(image.numpy().astype(np.float64), places + t * direction, order=1, mode="nearest")
            for t, weight in zip(path, weights / weights.sum(), strict=True)
        ]
        np.testing.assert_allclose(film, sum(parts), atol=1e-5)


def test_motion_goes_as_far_on_a_smaller_image_as_the_image_is_smaller():
    point = torch.zeros(1, 1, 112, 112)
    point[..., 56, 56] = 1
    rows, columns = drawn(Shift("ultrasound_motion", 5), point)[0, 0].gt(1e-6).nonzero(as_tuple=True)
    reach = math.hypot(rows.max() - rows.min(), columns.max() - columns.min())
    assert reach == pytest.approx(2 * 17 / 2, abs=1.5)


def test_window_and_level_are_linear_and_cut():
    x = torch.linspace(0, 1, 101).reshape(1, 1, 1, 101)
    for severity in SEVERITIES:
        for kind in ("window_narrow", "window_wide"):
            expected = np.interp(x, [0.5 - OURS[kind][severity - 1] / 2, 0.5 + OURS[kind][severity - 1] / 2], [0, 1])
            np.testing.assert_allclose(Shift(kind, severity)(x), expected, atol=1e-6)
        for kind in ("level_low", "level_high"):
            expected = np.clip(x.numpy() - OURS[kind][severity - 1], 0, 1)
            np.testing.assert_allclose(Shift(kind, severity)(x), expected, atol=1e-6)


def test_low_dose_is_the_noise_that_less_exposure_adds():
    """Photons at the detector, counted at full dose and at a part of it, make a film whose variances differ by ours."""
    levels, generator = np.array([0.2, 0.5, 0.8]), np.random.default_rng(0)
    full = 1 / (noises.FILM_RANGE * noises.FILM_NOISE) ** 2  # photons of a black pixel
    assert full == pytest.approx(4444, rel=0.01)

    def variance(dose):
        mean = dose * full * np.exp(-noises.FILM_RANGE * levels)[:, None]
        return (-np.log(generator.poisson(mean, (3, 400_000)) / (dose * full)) / noises.FILM_RANGE).var(1)

    for severity in (1, 3):
        dose = OURS["low_dose"][severity - 1]
        x = torch.tensor(levels, dtype=torch.float32).view(3, 1, 1, 1).expand(3, 1, 224, 224)
        made = (drawn(Shift("low_dose", severity), x) - x).flatten(1).var(1)
        np.testing.assert_allclose(made, variance(dose) - variance(1), rtol=0.05)


@pytest.mark.parametrize("kind", ["low_dose", "ct_low_dose"])
def test_black_has_no_noise_of_dose(kind):
    x = torch.full((2, 1, 32, 32), 0.5)
    x[:, :, :, :16] = 0
    made = drawn(Shift(kind, 5), x)
    assert not made[..., :16].any()
    assert (made[..., 16:] != 0.5).all()


def test_the_noise_of_a_slice_has_its_deviation_and_the_spectrum_of_back_projection():
    x = torch.full((64, 1, 64, 64), 0.5)
    for severity in (1, 4):
        added = drawn(Shift("ct_low_dose", severity), x) - x
        expected = 0.01 * math.sqrt(1 / OURS["ct_low_dose"][severity - 1] - 1)
        assert added.std().item() == pytest.approx(expected, rel=0.02)
    power = (np.abs(np.fft.fft2(added[:, 0].numpy())) ** 2).mean(0)[0, 1:32]  # along the columns
    f = np.arange(1, 32) / 64
    ratio = power / (f * np.cos(np.pi * f) ** 4)
    assert np.abs(ratio[:24] / ratio[:24].mean() - 1).max() < 0.5  # 64 slices: a deviation of 1/8
    assert power[0] < power[7] / 2
    assert power[-1] < power[7] / 100


def test_ringing_keeps_the_low_frequencies_and_removes_the_others():
    for severity, share in zip(SEVERITIES, OURS["gibbs_ringing"], strict=True):
        for waves in range(1, 32):
            x = 0.5 + 0.4 * torch.cos(2 * math.pi * waves * torch.arange(64) / 64).expand(1, 1, 64, 64)
            expected = x if waves <= share * 32 else torch.full_like(x, 0.5)
            torch.testing.assert_close(Shift("gibbs_ringing", severity)(x), expected, atol=1e-5, rtol=0)


def test_ringing_overshoots_an_edge_by_gibbss_constant():
    """9 % of the step, whatever share of the frequencies is kept (Wilbraham 1848, Gibbs 1899)."""
    x = torch.full((1, 1, 448, 448), 0.3)
    x[..., 112:336] = 0.7
    for share in (0.05, 0.1, 0.2):  # few enough for the pixels to meet the crest
        assert (ringing(x, share).max() - 0.7).item() / 0.4 == pytest.approx(0.0895, abs=0.006)


@kinds
def test_a_constant_grey_shows_which_shifts_only_take_detail(kind):
    x = torch.full((2, 1, 32, 32), 0.4)
    same = torch.allclose(drawn(Shift(kind, 5), x), x, atol=2 / 255)
    assert same == (
        kind in {"blur", "resolution", "jpeg", "ultrasound_motion", "gibbs_ringing", "contrast_down", "contrast_up"}
    )


@pytest.mark.parametrize("shape", [(3, 1, 48, 40), (2, 2, 6, 24, 20)])
def test_a_bias_field_is_smooth_and_as_strong_as_stated(shape):
    x = torch.full(shape, 0.4)
    for strength in OURS["bias_field"]:
        made = drawn(lambda images, s=strength: placing.bias_field(images, s), x)
        field = np.log(made.numpy().astype(np.float64) / 0.4)
        assert (field[:, :1] == field).all()  # the channels share it
        for one in field[:, 0]:
            assert np.abs(one).max() == pytest.approx(strength, rel=1e-4)
            waves = fft.dctn(one, norm="ortho")
            waves[(slice(3),) * one.ndim] = 0
            assert np.abs(waves).max() < 1e-4  # nothing but at most a wave along each axis
    assert not np.allclose(field[0], field[1], atol=0.05)


def test_collimation_leaves_a_rectangle_of_the_film():
    x = 0.2 + 0.8 * torch.rand(64, 1, 100, 50)
    for share in OURS["collimation"]:
        made = drawn(lambda images, s=share: placing.collimation(images, s), x)[:, 0]
        covered = []
        for film, clean in zip(made, x[:, 0], strict=True):
            rows, columns = (film > 0).any(1).nonzero()[:, 0], (film > 0).any(0).nonzero()[:, 0]
            inside = np.s_[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]
            assert torch.equal(film[inside], clean[inside])
            covered += [rows[0] / 100, (99 - rows[-1]) / 100, columns[0] / 50, (49 - columns[-1]) / 50]
        assert min(covered) >= share / 2 - 0.02
        assert max(covered) <= share * 3 / 2
        assert np.mean(covered) == pytest.approx(share, abs=0.015)  # a pixel that is covered in part counts as open


GEOMETRY = {
    "rotation": lambda degrees: [math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))],
    "scale": lambda factor: [1 / factor, 0],
}


@pytest.mark.parametrize("kind", GEOMETRY)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_rotation_and_scale_are_scipys_about_the_centre(kind, severity, films):
    made = drawn(Shift(kind, severity), films)
    value = OURS[kind][severity - 1]
    opposite = -value if kind == "rotation" else 1 / value
    ways = set()
    for film, image in zip(made[:, 0].numpy(), films[:, 0].numpy(), strict=True):
        gaps = []
        for way in (value, opposite):
            cos, sin = GEOMETRY[kind](way)
            matrix = np.array([[cos, sin], [-sin, cos]])
            offset = 31.5 - matrix @ [31.5, 31.5]
            expected = ndimage.affine_transform(image, matrix, offset, order=1)
            gaps.append(np.abs(film - expected)[10:-10, 10:-10].max())
        assert min(gaps) < 1e-4
        ways.add(int(np.argmin(gaps)))
    assert ways == {0, 1}  # either way, drawn for each film


@pytest.mark.parametrize("severity", SEVERITIES)
def test_translation_moves_by_its_share_in_all_directions(severity, films):
    made = drawn(Shift("translation", severity), films)[:, 0].numpy()
    torch.manual_seed(0)
    length, angles = OURS["translation"][severity - 1] * 64, (torch.rand(8) * 2 * math.pi).numpy()
    for film, image, angle in zip(made, films[:, 0].numpy(), angles, strict=True):
        expected = ndimage.shift(image, [-length * math.sin(angle), -length * math.cos(angle)], order=1)
        np.testing.assert_allclose(film[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-4)
    assert len(np.unique(np.sign([np.sin(angles), np.cos(angles)]), axis=1).T) >= 3


def test_contrast_leaves_out_what_is_black(films):
    padded = torch.cat([films, torch.zeros_like(films)], -1)
    torch.testing.assert_close(Shift("contrast_down", 5)(padded)[..., :64], Shift("contrast_down", 5)(films))
    assert torch.equal(Shift("contrast_up", 2)(films), contrast(films, torch.full((8,), 1.2)))


# What an augmentation has seen

ALL = {"blur", "brightness", "contrast", "geometry"}


@pytest.mark.parametrize(
    ("augmentation", "groups"),
    [
        (AugMix(operations="all"), ALL),
        (AugMix(operations="base"), {"contrast", "geometry"}),
        (AugMix(operations=["solarize", "posterize"]), set()),
        (RandomContrastBrightness(), {"brightness", "contrast"}),
        (RandContrast(), {"contrast"}),
        (RandContrastd("image"), {"contrast"}),
        (RandWindow(), {"window"}),
        (RandWindowd("image"), {"window"}),
    ],
)
def test_an_augmentation_states_the_groups_it_has_seen(augmentation, groups):
    assert augmentation.groups == groups <= GROUPS


@pytest.mark.parametrize(
    ("views", "groups"),
    [
        ({"clean": Clean(), "adversarial": PGD(L2(0.1))}, set()),
        ({"augmented": Augment(AugMix(operations="all")), "adversarial": Chain("augmented", PGD(L2(0.1)))}, ALL),
        (
            {"clean": Clean(), "again": Chain("clean", PerImage(Compose([RandContrast(), RandWindow()])))},
            {"contrast", "window"},
        ),
        ({"augmented": PerImage(Compose([RandGaussianNoise(), RandContrast()]))}, {"contrast", "unstated"}),
        ({"augmented": Augment(lambda x: x)}, {"unstated"}),
    ],
)
def test_what_the_views_of_training_have_seen(views, groups):
    assert seen(views) == groups


def test_no_config_of_a_bundle_and_no_recipe_refers_to_shifts():
    """Only evaluation presets, bundles/views, may name them, and what they are made of."""
    own = re.compile(r"transforms\W+(import\W+)?(shifts|noises|degradation|placing)\b|\bShift\b")
    paths = [*ROOT.glob("bundles/*/configs/*.yaml"), *ROOT.glob("bundles/recipes/*.yaml")]
    assert len(paths) > 10
    assert [path.name for path in paths if own.search(path.read_text())] == []
    assert own.search((ROOT / "bundles/views/quick.yaml").read_text())


# The page

PAGE = ROOT / "docs/shifts.md"
SCRIPT = ROOT / "docs/figures/shifts.py"


def test_the_table_of_the_page_is_made_of_the_shifts():
    assert runpy.run_path(str(SCRIPT))["table"]() in PAGE.read_text()


def test_the_page_names_the_command_of_its_sheet():
    page = PAGE.read_text()
    (image,) = re.findall(r"`python docs/figures/shifts.py -o (docs/images/\S+) --size 80`", page)
    assert f"]({image.removeprefix('docs/')})" in page
    assert "python docs/figures/shifts.py --table" in page


def test_the_sheet_shows_every_shift_clean_and_at_five_severities(films):
    script = runpy.run_path(str(SCRIPT))
    sheet = script["sheet"](films[:1])
    assert sheet.size == (script["NAMES"] + 6 * 68, script["HEAD"] + len(SHIFTS) * 68)
    pixels = np.asarray(sheet)
    row, column = list(SHIFTS).index("level_high"), 3
    top, left = script["HEAD"] + row * 68, script["NAMES"] + column * 68
    shown = Shift("level_high", 3)(films[:1])[0, 0]
    assert np.array_equal(pixels[top : top + 64, left : left + 64], (shown * 255).round())
    with Image.open(ROOT / "docs/images/shifts.png") as committed:
        assert committed.size == (script["NAMES"] + 6 * 84, script["HEAD"] + len(SHIFTS) * 84)


@pytest.mark.parametrize("modality", ["mammogram", "ultrasound", "ct"])
def test_each_modality_has_a_sheet_of_an_image_drawn_the_same_each_time(modality):
    script, page = runpy.run_path(str(SCRIPT)), PAGE.read_text()
    clean = script["phantom"](64, modality)
    assert torch.equal(clean, script["phantom"](64, modality))
    assert (clean.min() >= 0, clean.max() <= 1, clean.std() > 0.1) == (True, True, True)
    assert f"](images/shifts_{modality}.png)" in page
    with Image.open(ROOT / f"docs/images/shifts_{modality}.png") as committed:
        assert committed.size == script["sheet"](clean).size
        shown = np.asarray(committed.convert("L"), dtype=float)
    assert np.abs(shown - np.asarray(script["sheet"](clean), dtype=float)).mean() < 4  # fewer greys in the file


# On real films

PACKS = {"chest": "xray_kermany/images/test", "mammogram": "mammo_mias/images", "ultrasound": "us_pocus/images"}


@pytest.mark.data
@pytest.mark.parametrize("pack", PACKS)
def test_on_real_films_every_shift_grows_with_its_severity(pack, real_data):
    paths = sorted(path for path in (real_data / PACKS[pack]).rglob("*") if path.suffix in (".jpeg", ".png"))
    reader, resize = FilmReader(), Resize((224, 224), mode="area")
    films = [resize(reader.get_data((path,))[0][None]).as_tensor() for path in paths[:: len(paths) // 32][:32]]
    for kind in SHIFTS:
        check_severities(severities(kind), torch.stack(films))


@pytest.mark.data
def test_on_a_real_volume_every_shift_that_has_a_meaning_there_grows(real_data):
    path = real_data / "nifti_3d/nifti/someones_anatomy.nii.gz"
    x = torch.from_numpy(np.asarray(nib.load(path).dataobj, np.float32).transpose(2, 1, 0) / 255)[None, None]
    for kind in SHIFTS:
        if kind not in FLAT:
            check_severities(severities(kind), x)
