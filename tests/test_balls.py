"""Norm balls: their geometry as laws, and that the laws catch what breaks them."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rtda.pipeline.balls import L2, Ball, Linf
from rtda.pipeline.laws import check_ball

SHAPES = [(1, 1, 5, 4), (3, 2, 4, 3), (2, 1, 3, 4, 2), (2, 1, 1, 1)]
BALLS = [L2, Linf]

many = settings(max_examples=60, deadline=None)
balls = pytest.mark.parametrize("ball", BALLS)


@st.composite
def perturbations(draw):
    """(delta, other, grad): normal noise of any scale; now and then an example is 0, or all examples are alike."""
    shape = draw(st.sampled_from(SHAPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scales = [draw(st.sampled_from([1e-6, 1e-2, 1.0, 1e3])), draw(st.sampled_from([1e-6, 1e-2, 1.0, 1e3]))]
    scales.append(draw(st.sampled_from([1e-42, 1e-30, 1e-6, 1.0, 1e30])))
    made = [scale * torch.randn(shape, generator=generator) for scale in scales]
    made[2][0] *= draw(st.sampled_from([0.0, 1.0]))
    made[1] = draw(st.sampled_from([made[1], made[0], 1.001 * made[0]]))
    return made


radii = st.one_of(st.sampled_from([0.0, 1e-3, 0.571, 2.0]), st.floats(1e-4, 10.0))


@balls
@many
@given(radius=radii, tensors=perturbations())
def test_every_ball_keeps_the_laws_of_geometry(ball, radius, tensors):
    check_ball(ball(radius), *tensors)


@dataclass(frozen=True)
class Broken(L2):
    """A Euclidean ball with one fault."""

    fault: str = ""

    def project(self, delta):
        if self.fault == "project: inside":
            return 1.01 * super().project(delta)
        if self.fault == "project: idempotent":
            return super().project(delta) * (0.9 if self.length(delta).max() > 0.8 * self.radius else 1.0)
        if self.fault == "project: the identity":
            return torch.zeros_like(delta)
        if self.fault == "project: nearest":
            outside = (self.length(delta) > self.radius).reshape(-1, *[1] * (delta.ndim - 1))
            return torch.where(outside, super().project(-delta), delta)
        return super().project(delta)

    def ascend(self, grad):
        if self.fault == "ascend: norm 1":
            return grad
        if self.fault == "ascend: attains":
            return grad.sign() / math.sqrt(grad[0].numel())
        return super().ascend(grad)

    def sample(self, like):
        if self.fault == "sample: inside":
            return torch.randn_like(like)
        drawn = L2(self.radius).sample(like)
        return drawn.double() if self.fault == "sample: dtype" else drawn


@dataclass(frozen=True)
class Radial(Linf):
    """A cube onto which points are shrunk towards its centre: inside and idempotent, and yet no projection."""

    def project(self, delta):
        return delta * (self.radius / self.length(delta).reshape(-1, 1, 1, 1)).clamp_max(1.0)


@pytest.mark.parametrize(
    "fault",
    [
        "project: inside",
        "project: idempotent",
        "project: the identity",
        "project: nearest",
        "ascend: norm 1",
        "ascend: attains",
        "sample: inside",
        "sample: dtype",
    ],
)
def test_a_broken_ball_is_named_by_the_law_it_breaks(fault):
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=fault):
        check_ball(Broken(0.5, fault), *torch.randn(3, 2, 1, 4, 4))


@pytest.mark.parametrize(("swap", "law"), [(False, "project: nearest"), (True, "project: non-expansive")])
def test_shrinking_towards_the_centre_is_no_projection_onto_a_cube(swap, law):
    corner = torch.full((1, 1, 4, 4), 0.5)
    beside = corner.clone()
    beside[..., 0, 0] += 0.1
    points = (corner, beside) if swap else (beside, corner)
    check_ball(Linf(0.5), *points, corner)
    with pytest.raises(AssertionError, match=law):
        check_ball(Radial(0.5), *points, corner)


def test_the_geometry_is_that_of_the_textbook():
    delta = torch.tensor([[3.0, -4.0], [0.03, 0.04]])
    torch.testing.assert_close(L2(1.0).project(delta), torch.tensor([[0.6, -0.8], [0.03, 0.04]]))
    torch.testing.assert_close(L2(1.0).ascend(delta), torch.tensor([[0.6, -0.8], [0.6, 0.8]]))
    torch.testing.assert_close(L2(1.0).length(delta), torch.tensor([5.0, 0.05]))
    assert torch.equal(Linf(1.0).project(delta), torch.tensor([[1.0, -1.0], [0.03, 0.04]]))
    assert torch.equal(Linf(1.0).ascend(delta), torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    assert torch.equal(Linf(1.0).length(delta), torch.tensor([4.0, 0.04]))


@balls
@pytest.mark.parametrize("radius", [-1.0, -1e-9, math.inf, -math.inf, math.nan])
def test_a_radius_below_zero_or_not_finite_is_refused(ball, radius):
    with pytest.raises(ValueError, match=r"radius: .* is not a finite length >= 0"):
        ball(radius)


@balls
def test_a_ball_of_radius_zero_holds_nothing_but_the_origin(ball):
    delta = torch.randn(3, 1, 4, 4)
    assert not ball(0.0).project(delta).any()
    assert not ball(0.0).sample(delta).any()


@pytest.mark.parametrize("ball", [L2(0.5), Linf(0.5)])
@pytest.mark.parametrize("shape", [(1, 2), (2, 2, 2)])
def test_samples_fill_the_ball_uniformly(ball, shape):
    """(‖δ‖/radius)^n is uniform on [0, 1] for a uniform draw from any norm's ball in n dimensions."""
    torch.manual_seed(0)
    count = 20_000
    drawn = ball.sample(torch.empty(count, *shape))
    share = (ball.length(drawn) / ball.radius) ** math.prod(shape)
    expected = (torch.arange(count) + 0.5) / count
    assert (share.sort().values - expected).abs().max() < 1.95 / math.sqrt(count)  # Kolmogorov, p = 0.001
    assert (drawn.mean(0).abs() < 5 * ball.radius / math.sqrt(count)).all()


@balls
def test_samples_follow_torchs_generator_and_differ_between_examples(ball):
    like = torch.empty(2, 1, 4, 4)
    torch.manual_seed(1)
    first = ball(1.0).sample(like)
    torch.manual_seed(1)
    assert torch.equal(first, ball(1.0).sample(like))
    assert not torch.equal(first[0], first[1])


@balls
def test_balls_are_values_that_compare_and_print(ball):
    assert ball(0.5) == ball(0.5) != ball(0.6)
    assert repr(ball(0.5)) == f"{ball.__name__}(radius=0.5)"
    assert isinstance(ball(0.5), Ball)
    with pytest.raises(AttributeError):
        ball(0.5).radius = 1.0
