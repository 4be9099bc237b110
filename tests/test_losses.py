"""Losses: the divergences against independent references, and the objective against its equation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rtda.pipeline.laws import check_loss
from rtda.pipeline.losses import (
    DIVERGENCES,
    ConsistencyLoss,
    as_distributions,
    cross_entropy,
    js_divergence,
    kl_divergence,
    log_odds,
)
from scipy.spatial.distance import jensenshannon
from torch.nn import functional as F

VIEWS = ("clean", "augmented", "adversarial")
many = settings(max_examples=60, deadline=None)


@st.composite
def logits(draw, views=None):
    """(V, B, C) of any confidence; now and then the views differ by little, or are shifted by a constant."""
    shape = (views or draw(st.integers(2, 5)), draw(st.integers(1, 4)), draw(st.integers(2, 6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    made = torch.randn(shape, generator=generator) * draw(st.sampled_from([1e-3, 0.1, 1.0, 10.0, 100.0, 1e4]))
    between = draw(st.sampled_from([0.0, 1e-3, 1.0]))
    made = made[:1] + between * (made - made[:1])
    return made + draw(st.sampled_from([0.0, 50.0])) * torch.randn((shape[0], shape[1], 1), generator=generator)


@many
@given(logits(views=2))
def test_log_odds_are_those_of_the_softmax_and_do_not_saturate(z):
    double = z.double()
    p = double.softmax(-1)
    inside = (p > 1e-12) & (p < 1 - 1e-4)
    torch.testing.assert_close(log_odds(double)[inside], torch.logit(p)[inside], rtol=1e-6, atol=1e-6)
    far = torch.tensor([[0.0, 50.0], [0.0, 51.0]])
    assert log_odds(far)[1, 1] > log_odds(far)[0, 1]


@many
@given(logits())
def test_the_jensen_shannon_divergence_keeps_its_laws(z):
    check_loss(js_divergence, z)


@many
@given(logits())
def test_the_kl_divergence_keeps_those_laws_that_need_no_symmetry(z):
    check_loss(kl_divergence, z, symmetric=False)


def clamped(z):
    """JSD as AugMix's code writes it: p log(p/m) with a clamp."""
    p = z.softmax(-1)
    m = p.mean(0).clamp(1e-7, 1)
    return (p * (p / m).log()).sum(-1).mean(0)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (clamped, "finite"),
        (lambda z: js_divergence(z).mean(), "one value an example"),
        (lambda z: -js_divergence(z), "not negative"),
        (lambda z: js_divergence(z) + 1e-3, "0 where views are equal"),
        (lambda z: 0 * js_divergence(z), "0 only where views are equal"),
        (kl_divergence, "symmetric"),
        (lambda z: 3 * js_divergence(z), "at most log V"),
    ],
)
def test_a_broken_divergence_is_named_by_the_law_it_breaks(broken, law):
    z = torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0))
    z[:, 0] = 8 * torch.eye(3)
    with pytest.raises(AssertionError, match=f"loss: {law}"):
        check_loss(broken, z)


@many
@given(logits(views=2))
def test_between_two_views_it_is_scipys_jensen_shannon_distance_squared(z):
    p, q = z.double().softmax(-1).numpy()
    with np.errstate(invalid="ignore"):  # scipy takes roots of −1e-17
        expected = jensenshannon(p, q, axis=-1) ** 2
    np.testing.assert_allclose(js_divergence(z.double()), np.nan_to_num(expected), atol=1e-7)
    np.testing.assert_allclose(js_divergence(z), np.nan_to_num(expected), atol=1e-5)


@many
@given(logits(views=3))
def test_between_three_views_it_is_the_mean_kl_from_their_mixture(z):
    p = z.double().softmax(-1).numpy()
    m = p.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / m), 0.0)
    np.testing.assert_allclose(js_divergence(z), terms.sum(-1).mean(0), atol=1e-5)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_views_certain_of_different_classes_reach_log_v(views):
    z = 1e4 * torch.eye(views)[:, None]
    assert js_divergence(z).item() == pytest.approx(math.log(views), abs=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    z = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(js_divergence, z)
    assert torch.autograd.gradcheck(kl_divergence, z)


@many
@given(logits())
def test_kl_is_torchs_mean_kl_of_the_first_view_from_the_others(z):
    log_p = z.double().log_softmax(-1)
    parts = [F.kl_div(other, log_p[0], log_target=True, reduction="none").sum(-1) for other in log_p[1:]]
    torch.testing.assert_close(kl_divergence(z.double()), torch.stack(parts).mean(0))


def test_kl_of_one_view_is_zero():
    assert torch.equal(kl_divergence(torch.randn(1, 4, 3)), torch.zeros(4))


def test_cross_entropy_of_classes_is_torchs():
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert torch.equal(cross_entropy(z, y), F.cross_entropy(z, y, reduction="none"))


def test_cross_entropy_of_labels_sums_the_binary_ones():
    z, y = torch.randn(5, 3), torch.randint(0, 2, (5, 3))
    p = z.double().sigmoid()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).sum(1)
    torch.testing.assert_close(cross_entropy(z, y), expected.float())


def test_one_label_costs_what_two_classes_cost():
    z, y = torch.randn(8), torch.arange(8) % 2
    two = torch.stack([torch.zeros(8), z], 1)
    torch.testing.assert_close(cross_entropy(z[:, None], y[:, None]), cross_entropy(two, y))


@pytest.mark.parametrize("divergence", sorted(DIVERGENCES))
@pytest.mark.parametrize("supervise", [("adversarial",), ("clean",), ("clean", "adversarial")])
@pytest.mark.parametrize("weight", [0.5, 12.0])
def test_the_objective_is_its_equation(divergence, supervise, weight):
    """L = mean CE(f(x_s), y) + λ · D(f(x_v)), written out in float64 with rows view-major."""
    z, y = torch.randn(3 * 4, 5), torch.tensor([0, 3, 1, 4])
    loss = ConsistencyLoss(VIEWS, supervise=supervise, weight=weight, divergence=divergence)
    parts = dict(zip(VIEWS, z.double().split(4), strict=True))
    entropy = torch.stack([F.cross_entropy(parts[name], y) for name in supervise]).mean()
    p = torch.stack([parts[name].softmax(-1) for name in VIEWS])
    if divergence == "js":
        consistency = (p * (p / p.mean(0)).log()).sum(-1).mean(0).mean()
    else:
        consistency = (p[0] * (p[0] / p[1:]).log()).sum(-1).mean(0).mean()
    torch.testing.assert_close(loss(z, y.repeat(3)).double(), entropy + weight * consistency, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.terms["cross_entropy"].double(), entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.terms["consistency"].double(), consistency, rtol=1e-5, atol=1e-5)


def test_of_labels_the_consistency_is_the_sum_over_labels_as_the_cross_entropy_is():
    z, y = torch.randn(2 * 3, 4), torch.randint(0, 2, (3, 4)).repeat(2, 1)
    loss = ConsistencyLoss(("clean", "adversarial"), weight=2.0)
    value = loss(z, y)
    p = z.double().sigmoid().unflatten(0, (2, 3)).flatten(1).numpy()
    each = [jensenshannon([1 - a, a], [1 - b, b]) ** 2 for a, b in p.T]
    expected = cross_entropy(z[3:], y[3:]).mean() + 2.0 * np.sum(each) / 3
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)


def test_labels_as_distributions_stay_view_major():
    z = torch.arange(6.0).reshape(3, 2)
    made = as_distributions(z, torch.zeros(3, 2))
    assert torch.equal(made[:, 1], torch.arange(6.0))
    assert not made[:, 0].any()
    assert as_distributions(z, torch.zeros(3)) is z


def test_with_weight_zero_only_cross_entropy_is_left():
    z, y = torch.randn(6, 2), torch.tensor([0, 1]).repeat(3)
    loss = ConsistencyLoss(VIEWS, supervise=("augmented",), weight=0)
    assert loss(z, y).item() == pytest.approx(F.cross_entropy(z[2:4], y[2:4]).item())
    assert loss.terms.keys() == {"cross_entropy"}


def test_the_terms_are_detached_scalars_of_the_last_call():
    loss = ConsistencyLoss(VIEWS)
    for z in (torch.zeros(6, 2), torch.randn(6, 2)):
        value = loss(z.requires_grad_(), torch.tensor([0, 1]).repeat(3))
    assert [term.shape for term in loss.terms.values()] == [(), ()]
    assert not any(term.requires_grad for term in loss.terms.values())
    total = loss.terms["cross_entropy"] + loss.weight * loss.terms["consistency"]
    assert total.item() == pytest.approx(value.item())


@pytest.mark.parametrize("weight", [0.0, 12.0])
@pytest.mark.parametrize("labels", [torch.tensor([0, 1]).repeat(3), torch.tensor([[0, 1], [1, 1]]).repeat(3, 1)])
def test_the_objective_and_its_gradient_are_finite_on_confident_logits(weight, labels):
    z = (1e4 * torch.randn(6, 2).sign()).requires_grad_()
    value = ConsistencyLoss(VIEWS, weight=weight)(z, labels)
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"supervise": ("noisy",)}, r"supervise: \['noisy'\] must name stacked views, one of \['clean'"),
        ({"supervise": ()}, r"supervise: \[\] must name"),
        ({"weight": -1.0}, "weight: -1.0 is not a finite number >= 0"),
        ({"weight": math.nan}, "weight: nan"),
        ({"weight": math.inf}, "weight: inf"),
        ({"divergence": "tv"}, "divergence: 'tv' is unknown.*js.*kl"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyLoss(VIEWS, **settings)


def test_rows_that_are_no_whole_number_of_views_are_refused():
    with pytest.raises(ValueError, match="7 rows are no multiple of the 3 views"):
        ConsistencyLoss(VIEWS)(torch.zeros(7, 2), torch.zeros(7, dtype=torch.long))
