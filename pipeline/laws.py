"""The contracts of balls, views, losses and shifts, as plain functions: for our tests, and for whoever adds one.

Each raises ``AssertionError`` naming the law that was broken and the figure that broke it. They need neither pytest nor
hypothesis; call them on inputs of your own choice, the more awkward the better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from monai.data import set_rnd
from torch import Tensor, nn

from .balls import Ball
from .seeding import forked
from .views import View


def check_ball(ball: Ball, delta: Tensor, other: Tensor, grad: Tensor) -> None:
    """Check the geometry of a ball on two perturbations and a gradient.

    Laws:
        * ``project``: inside the ball; the identity inside; idempotent; nearest; non-expansive (Euclidean distances).
        * ``ascend``: norm 1, or 0 for a zero gradient; <grad, ascend(grad)> attains the dual norm, i.e. no other vector
          of norm 1 reaches more.
        * ``sample``: inside the ball, like its argument.

    Args:
        ball: the ball to check.
        delta: (B, C, *spatial) float32, finite; norms well below 1e15, so that squares do not overflow.
        other: likewise.
        grad: likewise; examples may be 0.

    Example:
        >>> from rtda.pipeline.balls import L2
        >>> check_ball(L2(0.5), torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4))
    """
    near, near_other, drawn = ball.project(delta), ball.project(other), ball.sample(delta)
    for what, point in (("project", near), ("sample", drawn)):
        _same_kind(what, point, delta)
        _at_most(f"{what}: inside the ball", ball.length(point.double()), ball.radius * (1 + 1e-5))
    size = 1e-5 * ball.radius * math.sqrt(delta[0].numel())
    _at_most("project: idempotent", _distance(ball.project(near), near), size)
    _at_most("project: the identity inside", _distance(ball.project(drawn / 2), drawn / 2), size)
    reach = _distance(delta, near)
    for rival in (near_other, drawn):
        _at_most("project: nearest", reach, _distance(delta, rival) * (1 + 1e-5) + size)
    apart = _distance(delta, other)
    _at_most("project: non-expansive", _distance(near, near_other), apart * (1 + 1e-5) + size)
    _check_ascend(ball, grad, (delta, other))


def _check_ascend(ball: Ball, grad: Tensor, directions: tuple[Tensor, ...]) -> None:
    step = ball.ascend(grad)
    _same_kind("ascend", step, grad)
    norm, wanted = ball.length(step.double()), (grad.flatten(1) != 0).any(1).double()
    _at_most("ascend: norm 1, or 0 for a zero gradient", (norm - wanted).abs(), 1e-5)
    peak = grad.flatten(1).abs().argmax(1, keepdim=True)
    corner = torch.zeros_like(grad.flatten(1)).scatter(1, peak, grad.flatten(1).gather(1, peak)).reshape(grad.shape)
    gain = _inner(grad, step)
    for direction in (grad, grad.sign(), corner, *directions):  # the first three are the best for ℓ2, ℓ∞ and ℓ1
        length = ball.length(direction.double())
        rival = _inner(grad, direction) / length.clamp_min(torch.finfo(torch.float64).tiny)
        _at_most("ascend: attains the dual norm", rival * (1 - 1e-5), gain)


def check_view(
    view: View,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    ball: Ball | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Check a view on one batch and one model, in the mode that the model is in.

    Laws:
        * x' has the shape, dtype and device of x, and no gradient history; x stays as it was.
        * x' lies within the bounds exactly, and x' − x within the ball to 1e-5·radius + 2⁻²³ (ℓ∞), ·√n (ℓ2), in [0, 1].
        * The model's parameters, gradients, buffers, modes and ``requires_grad`` stay as they were.
        * The same draw gives the same x': torch's generator and MONAI's ``set_rnd`` decide it.

    Args:
        view: the view to check; its own random state is left seeded.
        model: (B, C, *spatial) -> logits, e.g. with dropout and BatchNorm, in training mode.
        x: (B, C, *spatial) float32 within the bounds.
        y: (B,) classes or (B, C) labels.
        ball: of an attack; None for views without a radius.
        bounds: range of valid intensities.

    Example:
        >>> from rtda.pipeline.attacks import PGD
        >>> from rtda.pipeline.balls import Linf
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> check_view(PGD(Linf(0.1)), model, torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 1]), ball=Linf(0.1))
    """
    before, image = _state(model), x.clone()
    made = _drawn(view, model, x, y)
    _same_kind("view", made, x)
    assert not made.requires_grad, "view: detached: the images still carry a gradient history"
    assert torch.equal(x, image), f"view: x stays as it was: it moved by {(x - image).abs().max():.3g}"
    after = _state(model)
    changed = [name for name in before | after if not _equal(before.get(name), after.get(name))]
    assert not changed, f"view: the model stays as it was: {changed} changed"
    _at_most("view: above the lower bound", bounds[0] - made.flatten(1).amin(1), 0.0)
    _at_most("view: below the upper bound", made.flatten(1).amax(1) - bounds[1], 0.0)
    if ball is not None:
        rounding = ball.length(torch.full_like(x, 2.0**-23 * max(map(abs, bounds))))
        _at_most("view: inside the ball", ball.length(made.double() - x.double()), 1.00001 * ball.radius + rounding)
    again = _drawn(view, model, x, y)
    assert torch.equal(made, again), f"view: same draw, same images: they differ by {(made - again).abs().max():.3g}"


def check_loss(divergence: Callable[[Tensor], Tensor], logits: Tensor, *, symmetric: bool = True) -> None:
    """Check a divergence between views, on the given logits and on the same scaled to ±1e4.

    Laws:
        * (B,) finite values with finite gradients.
        * ≥ −1e-6; 0 where all views' distributions are equal, and > 0 where two differ by a total variation above 0.01.
        * if symmetric: unchanged (to 1e-5) under a permutation of the views, and ≤ log V + 1e-6, as the JSD.

    Args:
        divergence: (V, B, C) -> (B,), in nats.
        logits: (V, B, C) float32, finite, not all 0.
        symmetric: False for divergences from the first view to the others, as KL.

    Example:
        >>> from rtda.pipeline.losses import js_divergence
        >>> check_loss(js_divergence, torch.randn(3, 5, 2))
    """
    for scaled in (logits, logits * (1e4 / logits.abs().max())):
        z = scaled.detach().clone().requires_grad_()
        value = divergence(z)
        assert value.shape == z.shape[1:2], f"loss: one value an example: shape {tuple(value.shape)}"
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert bool(value.isfinite().all()), f"loss: finite value: {value.tolist()}"
        assert bool(gradient.isfinite().all()), f"loss: finite gradient at {z.abs().max():.3g}"
        _at_most("loss: not negative", -value, 1e-6)
        _at_most("loss: 0 where views are equal", divergence(scaled[:1].expand_as(scaled)).abs(), 1e-6)
        p = scaled.softmax(-1)
        differ = (p - p[:1]).abs().sum(-1).amax(0) / 2 > 0.01
        assert bool((value[differ] > 1e-6).all()), f"loss: 0 only where views are equal: {value[differ].tolist()}"
        if symmetric:
            for permuted in (scaled.flip(0), scaled.roll(1, 0)):
                _at_most("loss: symmetric in the views", (divergence(permuted) - value).abs(), 1e-5)
            _at_most("loss: at most log V", value, math.log(len(scaled)) + 1e-6)


def check_shift(shift: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Check a shift, or any batch-first augmentation, on one batch.

    Laws:
        * (B, C, *spatial) in [0, 1] -> the same shape, dtype and device; finite; within [0, 1]; x stays as it was.
        * The same seed of torch's generator gives the same images.

    Example:
        >>> check_shift(lambda x: 1 - x, torch.rand(2, 1, 4, 4))
    """
    check_view(lambda model, images, labels: shift(images), nn.Identity(), x, torch.zeros(len(x)))


def check_severities(shifts: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> None:
    """Check the severities of one kind of shift, mildest first, on one batch.

    Laws:
        * Each keeps those of :func:`check_shift`.
        * None is the identity on all images.
        * The ℓ2 distance to the clean images, in the mean over the batch, rises from each to the next, under one seed.

    Args:
        shifts: the kind at each of its severities.
        x: (B, C, *spatial) float32 in [0, 1], such as the shift is for: on a constant image blur is the identity.

    Example:
        >>> check_severities([lambda x: 0.9 * x, lambda x: 0.8 * x], torch.rand(2, 1, 4, 4))
    """
    far: list[float] = []
    for shift in shifts:
        check_shift(shift, x)
        with forked(0, x.device):
            far.append(float(_distance(shift(x), x).mean()))
    assert min(far) > 0, f"severities: none is the identity: distances {_listed(far)}"
    assert all(near < further for near, further in pairwise(far)), f"severities: the distance rises: {_listed(far)}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _drawn(view: View, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    set_rnd(view, 0)
    with forked(0, x.device):
        return view(model, x, y)


def _state(model: nn.Module) -> dict[str, Tensor | bool]:
    state: dict[str, Tensor | bool] = {f"mode of '{name}'": m.training for name, m in model.named_modules()}
    state |= {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}
    for name, parameter in model.named_parameters():
        state[f"parameter {name}"] = parameter.detach().clone()
        state[f"requires_grad of {name}"] = parameter.requires_grad
        if parameter.grad is not None:
            state[f"gradient of {name}"] = parameter.grad.clone()
    return state


def _equal(a: Tensor | bool | None, b: Tensor | bool | None) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b


def _same_kind(what: str, made: Tensor, like: Tensor) -> None:
    for law in ("shape", "dtype", "device"):
        is_, ought = getattr(made, law), getattr(like, law)
        assert is_ == ought, f"{what}: {law} of its argument: {is_}, not {ought}"


def _at_most(law: str, value: Tensor, limit: Tensor | float) -> None:
    """NaN breaks every law."""
    excess = (value - limit).max()
    assert bool((value <= limit).all()), f"{law}: {value.max():.6g}, too much by {excess:.3g}"


def _distance(a: Tensor, b: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm((a.double() - b.double()).flatten(1), dim=1)
    return distance


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)
