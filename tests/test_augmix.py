"""AugMix on tensors: the laws of a batched augmentation, and agreement with Pillow's operations on 8-bit images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from rtda.pipeline.views import Augment
from rtda.transforms.augmix import LISTS, OPERATIONS, AugMix, Draw, affine, equalize
from torch import nn

SHAPES = [(3, 1, 12, 16), (2, 2, 9, 9), (2, 1, 5, 12, 10)]
seeds = st.integers(0, 2**31)
transforms = st.builds(
    AugMix,
    severity=st.sampled_from([0.5, 3, 10]),
    width=st.integers(1, 4),
    depth=st.sampled_from([(1, 1), (1, 3), (2, 4)]),
    alpha=st.sampled_from([0.3, 1.0, 5.0]),
    operations=st.one_of(
        st.sampled_from(list(LISTS)), st.lists(st.sampled_from(LISTS["all"]), min_size=1, unique=True)
    ),
)


def images(shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def drawn(transform, count, seed):
    torch.manual_seed(seed)
    return transform.draw(count)


@settings(max_examples=40, deadline=None)
@given(transform=transforms, shape=st.sampled_from(SHAPES), seed=seeds)
def test_shape_range_and_type_stay_and_the_input_is_left_alone(transform, shape, seed):
    x = images(shape, seed)
    before = x.clone()
    made = transform(x)
    assert made.shape == x.shape
    assert made.dtype == torch.float32
    assert made.min() >= 0
    assert made.max() <= 1
    assert torch.equal(x, before)


@settings(max_examples=20, deadline=None)
@given(transform=transforms, shape=st.sampled_from(SHAPES), seed=seeds)
def test_a_share_of_zero_is_the_identity(transform, shape, seed):
    x, draw = images(shape, seed), drawn(transform, shape[0], seed)
    assert torch.equal(transform.apply(x, Draw(**vars(draw) | {"share": torch.zeros(len(x))})), x)


@settings(max_examples=40, deadline=None)
@given(transform=transforms, shape=st.sampled_from(SHAPES), seed=seeds)
def test_an_image_in_a_batch_is_what_it_is_alone(transform, shape, seed):
    x, draw = images(shape, seed), drawn(transform, shape[0], seed)
    together = transform.apply(x, draw)
    alone = torch.cat([transform.apply(x[i : i + 1], draw.of(slice(i, i + 1))) for i in range(len(x))])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(transform=transforms, seed=seeds)
def test_images_of_a_batch_do_not_see_one_another(transform, seed):
    x, draw = images((3, 1, 12, 16), seed), drawn(transform, 3, seed)
    other = x.clone()
    other[1] = 1 - other[1]
    a, b = transform.apply(x, draw), transform.apply(other, draw)
    assert torch.equal(a[[0, 2]], b[[0, 2]])


def test_draws_have_the_distributions_of_augmix():
    draw = drawn(AugMix(), 20_000, 0)
    assert draw.operation.shape == draw.level.shape == draw.sign.shape == (20_000, 3, 3)
    assert draw.weights.sum(1).allclose(torch.ones(20_000))
    for values, low, high in ((draw.level, 0.1, 3), (draw.share, 0, 1)):  # uniform: mean and variance
        assert values.min() >= low
        assert values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02)
        assert values.var() == pytest.approx((high - low) ** 2 / 12, rel=0.03)
    for values, kinds in ((draw.operation, range(9)), (draw.depth, (1, 2, 3)), (draw.sign, (-1, 1))):
        assert set(values.flatten().tolist()) == set(kinds)
        shares = [(values == kind).float().mean().item() for kind in kinds]
        assert shares == pytest.approx([1 / len(shares)] * len(shares), abs=0.01)
    assert draw.weights.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    assert draw.weights.var(0).tolist() == pytest.approx([1 / 18] * 3, rel=0.05)  # Dirichlet(1, 1, 1)


def test_a_seed_gives_the_same_images_and_the_next_draw_others():
    x, view = images((4, 1, 16, 16), 0), Augment(AugMix(operations="all"))
    torch.manual_seed(1)
    a, b = (view(nn.Identity(), x, torch.zeros(4)) for _ in range(2))
    torch.manual_seed(1)
    c = view(nn.Identity(), x, torch.zeros(4))
    assert torch.equal(a, c)
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    "settings",
    [
        {"operations": ["rotate", "flip"]},
        {"operations": []},
        {"operations": "most"},
        {"severity": 0.1},
        {"severity": 11},
        {"width": 0},
        {"depth": (0, 3)},
        {"depth": (3, 2)},
        {"alpha": 0},
    ],
    ids=str,
)
def test_refused(settings):
    with pytest.raises(ValueError, match=rf"(^|, )({next(iter(settings))})[,:]"):
        AugMix(**settings)


# Against Pillow, on 8-bit images, each operation with the same parameters


def films(size=64):
    """Smooth and noisy films without a black pixel, whose means Pillow takes over all pixels."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    smooth = 60 + 120 * np.exp(-((rows - 0.4) ** 2 + (columns - 0.55) ** 2) / 0.1)
    noisy = smooth + generator.normal(0, 12, smooth.shape)
    dark = 1 + 70 * rows * columns + generator.normal(0, 2, smooth.shape)
    return [image.clip(1, 255).round().astype(np.uint8) for image in (smooth, noisy, dark)]


PILLOW = {
    "autocontrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "posterize": lambda image, level, sign: ImageOps.posterize(image, 4 - int(level * 4 / 10)),
    "rotate": lambda image, level, sign: image.rotate(sign * int(level * 30 / 10), resample=Image.BILINEAR),
    "solarize": lambda image, level, sign: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
    "shear_x": lambda image, level, sign: moved(image, (1, sign * level * 0.3 / 10, 0, 0, 1, 0)),
    "shear_y": lambda image, level, sign: moved(image, (1, 0, 0, sign * level * 0.3 / 10, 1, 0)),
    "translate_x": lambda image, level, sign: moved(image, (1, 0, sign * int(level * image.width / 3 / 10), 0, 1, 0)),
    "translate_y": lambda image, level, sign: moved(image, (1, 0, 0, 0, 1, sign * int(level * image.width / 3 / 10))),
    "contrast": lambda image, level, sign: ImageEnhance.Contrast(image).enhance(level * 1.8 / 10 + 0.1),
    "brightness": lambda image, level, sign: ImageEnhance.Brightness(image).enhance(level * 1.8 / 10 + 0.1),
    "sharpness": lambda image, level, sign: ImageEnhance.Sharpness(image).enhance(level * 1.8 / 10 + 0.1),
}


def moved(image, matrix):
    return image.transform(image.size, Image.AFFINE, matrix, resample=Image.BILINEAR)


def applied(name, x, level, sign):
    """One operation alone, as a chain of one that is all of the result."""
    one = torch.ones(1, 1)
    draw = Draw(torch.zeros(1, 1, 1).long(), level * one[None], sign * one[None], one.long(), one, one[0])
    return AugMix(10, width=1, depth=(1, 1), operations=[name]).apply(x, draw)


@pytest.mark.parametrize("size", [64, 63])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", [0.15, 1.37, 2.9, 7.7])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name, level, sign, size):
    for film in films(size):
        expected = np.asarray(PILLOW[name](Image.fromarray(film), level, sign), np.float64)
        made = applied(name, torch.from_numpy(film / np.float32(255))[None, None], level, sign)[0, 0].numpy() * 255
        assert np.abs(made - expected).mean() <= 2
        if name not in ("rotate", "shear_x", "shear_y"):  # at the border of these Pillow takes the nearest pixel
            assert np.abs(made - expected).max() <= 1.5 + 1e-3  # it rounds means and blurs, then cuts


def test_every_operation_is_compared_with_pillow():
    assert set(PILLOW) == set(OPERATIONS) == set(LISTS["all"])
    assert set(LISTS["all"]) - set(LISTS["base"]) == {"contrast", "brightness", "sharpness"}


# In three dimensions


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y", "sharpness"])
def test_what_works_in_the_plane_treats_a_volume_slice_by_slice(name):
    volume = images((1, 1, 4, 10, 12), 0)
    slices = torch.stack([applied(name, volume[:, :, k], 2.5, 1) for k in range(4)], 2)
    assert torch.allclose(applied(name, volume, 2.5, 1), slices, atol=1e-6)


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "posterize", "solarize", "contrast", "brightness"])
def test_what_works_on_grey_levels_sees_a_volume_as_one_image(name):
    volume = images((1, 1, 4, 10, 12), 0)
    flat = applied(name, volume.reshape(1, 1, 40, 12), 2.5, 1)
    assert torch.allclose(applied(name, volume, 2.5, 1), flat.reshape(volume.shape), atol=1e-6)


def test_a_constant_image_is_neither_stretched_nor_equalised():
    x = torch.full((1, 1, 6, 6), 0.3)
    for name in ("autocontrast", "contrast"):
        assert torch.allclose(applied(name, x, 2.5, 1), x, atol=1e-6)
    assert torch.allclose(equalize(x, torch.zeros(1)), x, atol=0.5 / 255)


def test_the_identity_matrix_moves_nothing():
    x = images((2, 1, 7, 5), 0)
    matrix = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(2, 1, 1)
    assert torch.allclose(affine(x, matrix), x, atol=1e-6)
