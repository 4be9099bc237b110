"""Pixel functions: closed forms, bounds, identities, in 2-D and 3-D, with a parameter for each image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rtda.pipeline.laws import check_shift
from rtda.transforms.intensity import RandomContrastBrightness, brightness, contrast, mix, noise

many = settings(max_examples=50, deadline=None)
numbers = st.floats(-4, 4, width=32)


@st.composite
def images(draw):
    """(B, C, *spatial) in [0, 1], 2-D or 3-D; now and then black, white, or of few grey levels."""
    shape = draw(st.sampled_from([(1, 1, 5, 4), (3, 2, 4, 3), (2, 1, 3, 4, 2), (2, 3, 2, 3, 2), (1, 1, 1, 1)]))
    x = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))
    return draw(st.sampled_from([x, x.round(), (3 * x).round() / 3, torch.zeros(shape), torch.ones(shape)]))


def drawn(data, x, values=numbers):
    return torch.tensor(data.draw(st.lists(values, min_size=len(x), max_size=len(x))))


FUNCTIONS = {
    "contrast": contrast,
    "brightness": brightness,
    "mix": lambda x, p: mix(x, 1 - x, p.abs() / 4),
    "noise": lambda x, p: noise(x, p.abs()),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@many
@given(x=images(), data=st.data())
def test_every_pixel_function_keeps_the_laws_of_a_shift(function, x, data):
    parameters = drawn(data, x)
    check_shift(lambda images: function(images, parameters), x)


@many
@given(x=images(), data=st.data())
def test_contrast_stretches_about_the_mean_inside_each_image_and_channel(x, data):
    factor = drawn(data, x)
    expected = np.empty(x.shape)
    for b, c in np.ndindex(*x.shape[:2]):
        mean = np.float64(x[b, c][x[b, c] > 0].double().sum()) / max(int((x[b, c] > 0).sum()), 1)  # black is outside
        expected[b, c] = (mean + factor[b].item() * (x[b, c].double() - mean)).clamp(0, 1)
    np.testing.assert_allclose(contrast(x, factor), expected, atol=2e-6)


@many
@given(x=images(), data=st.data())
def test_lower_contrast_keeps_the_mean_and_scales_the_deviation(x, data):
    factor = drawn(data, x, st.floats(0, 1, width=32))
    made = contrast(x, factor).flatten(2)
    inside, deviation = x.flatten(2) > 0, x.flatten(2).std(2, correction=0)
    means = [(values * inside).sum(2) / inside.sum(2).clamp(min=1) for values in (made, x.flatten(2))]
    torch.testing.assert_close(*means, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.std(2, correction=0), factor[:, None] * deviation, atol=1e-5, rtol=0)


@many
@given(x=images(), data=st.data())
def test_brightness_adds_and_clips(x, data):
    offset = drawn(data, x)
    expected = np.clip(x.numpy() + offset.numpy().reshape(-1, *[1] * (x.ndim - 1)), 0, 1)
    np.testing.assert_array_equal(brightness(x, offset), expected)


@many
@given(x=images(), data=st.data())
def test_a_mixture_lies_between_its_parts_and_ends_at_them(x, data):
    share, other = drawn(data, x, st.floats(0, 1, width=32)), 1 - x
    made = mix(x, other, share)
    assert (made <= torch.maximum(x, other) + 1e-6).all()
    assert (made >= torch.minimum(x, other) - 1e-6).all()
    torch.testing.assert_close(made, mix(other, x, 1 - share), atol=1e-6, rtol=0)
    assert torch.equal(mix(x, other, torch.zeros(len(x))), x)
    assert torch.equal(mix(x, other, torch.ones(len(x))), other)


IDENTITIES = {"contrast": (contrast, 1.0), "brightness": (brightness, 0.0), "noise": (noise, 0.0)}


@pytest.mark.parametrize("name", IDENTITIES)
@many
@given(x=images())
def test_the_neutral_parameter_is_the_identity(name, x):
    function, neutral = IDENTITIES[name]
    torch.testing.assert_close(function(x, torch.full((len(x),), neutral)), x, atol=1e-6, rtol=0)


@many
@given(x=images(), data=st.data())
def test_each_image_takes_its_own_parameter(x, data):
    parameters = drawn(data, x)
    for function in (contrast, brightness):
        each = torch.cat([function(x[i : i + 1], parameters[i : i + 1]) for i in range(len(x))])
        torch.testing.assert_close(function(x, parameters), each, atol=1e-6, rtol=0)


def test_noise_has_the_deviation_that_it_was_given():
    torch.manual_seed(0)
    grey = torch.full((2, 1, 100, 100), 0.5)
    made = noise(grey, torch.tensor([0.02, 0.1])) - grey
    torch.testing.assert_close(made.flatten(1).std(1), torch.tensor([0.02, 0.1]), rtol=0.05, atol=0)
    assert (made.flatten(1).mean(1).abs() < 0.005).all()


@many
@given(x=images(), alpha=st.sampled_from([0.2, 1.0, 5.0]), seed=st.integers(0, 2**16))
def test_the_random_augmentation_keeps_the_laws_of_a_shift(x, alpha, seed):
    torch.manual_seed(seed)
    check_shift(RandomContrastBrightness(alpha=alpha), x)


@many
@given(x=images())
def test_the_random_augmentation_at_its_neutral_ranges_is_the_identity(x):
    augment = RandomContrastBrightness(factor=(1.0, 1.0), offset=(0.0, 0.0))
    torch.testing.assert_close(augment(x), x, atol=1e-6, rtol=0)


def test_the_random_augmentation_draws_for_each_image():
    torch.manual_seed(0)
    same = torch.rand(1, 1, 8, 8).expand(4, 1, 8, 8)
    made = RandomContrastBrightness()(same)
    assert len(made.unique(dim=0)) == 4


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (lambda x: x[:, :1, 1:], "shape"),
        (lambda x: x.double(), "dtype"),
        (lambda x: 1.5 * x, "upper bound"),
        (lambda x: x - 0.5, "lower bound"),
        (lambda x: x / 0.0, "bound"),
        (lambda x: x.neg_().add_(1), "x stays as it was"),
        (lambda x: torch.rand(x.shape, generator=ELSEWHERE), "same draw, same images"),
    ],
)
def test_a_broken_shift_is_named_by_the_law_it_breaks(broken, law):
    with pytest.raises(AssertionError, match=law):
        check_shift(broken, torch.tensor([0.0, 0.25, 1.0, 0.75]).reshape(1, 1, 2, 2))


ELSEWHERE = torch.Generator().manual_seed(0)
