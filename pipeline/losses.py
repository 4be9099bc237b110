"""Objectives over stacked views: supervised cross entropy plus a consistency divergence between the views' outputs.

    L = mean_{s in supervise} CE(f(x_s), y) + weight · D(f(x_v) : v in views)

With views (clean, augmented, adversarial), ``supervise=("adversarial",)`` and D = Jensen–Shannon this is Eq. 10 of
Martínez-Martínez et al., arXiv 2506.17133; the other rows of the table in ``docs/architecture.md`` are other settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each example, in nats.

    Args:
        logits: (B, C), any real numbers.
        target: (B,) integer classes, or (B, C) of 0 and 1: then each column is a label of its own, and the binary
            cross entropies are summed over labels.

    Returns:
        (B,), ≥ 0.

    Example:
        >>> cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
        tensor([0.6931])
    """
    if target.ndim == 1:
        return F.cross_entropy(logits, target, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, target.to(logits), reduction="none").sum(1)


def log_odds(logits: Tensor) -> Tensor:
    """Log p_k/(1 − p_k) of each class, z_k − logsumexp of the others: it orders images as p_k does and never ties.

    In float32 a probability is 1 from a logit gap of 17 on; ranked by it, confident mistakes would be ties.

    Args:
        logits: (…, C), finite, C ≥ 2.

    Returns:
        (…, C), any real number.

    Example:
        >>> log_odds(torch.tensor([40.0, 0.0]))
        tensor([ 40., -40.])
    """
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others = logits[..., None, :].masked_fill(own, -math.inf)
    return logits - torch.logsumexp(others, dim=-1)


def js_divergence(logits: Tensor) -> Tensor:
    """Generalised Jensen–Shannon divergence between V categorical distributions, with equal weights, in nats.

    JSD = (1/V) Σ_v KL(p_v ‖ m), m = (1/V) Σ_v p_v, computed wholly in log space: p·log(p/m) with a clamp has NaN
    gradients on confident logits, this has none.

    Args:
        logits: (V, B, C), any finite numbers.

    Returns:
        (B,) in [0, log V] up to 1e-6; 0 iff all V distributions are equal; symmetric in the views.

    Source:
        Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37 (1991), Eq. 5.1;
        Hendrycks et al., "AugMix", ICLR 2020, Eq. 1.

    Example:
        >>> js_divergence(torch.tensor([[[9e4, 0.0]], [[0.0, 9e4]]]))  # log 2
        tensor([0.6931])
    """
    log_p = F.log_softmax(logits, dim=-1)
    log_m = torch.logsumexp(log_p, dim=0) - math.log(len(logits))
    return _kl(log_p, log_m).mean(0)


def kl_divergence(logits: Tensor) -> Tensor:
    """Mean KL divergence of the first view's distribution from the others', KL(p_0 ‖ p_v), in nats.

    Args:
        logits: (V, B, C), any finite numbers; V = 1 gives 0.

    Returns:
        (B,), ≥ 0 up to 1e-6.

    Source:
        Zhang et al., "TRADES", ICML 2019, Eq. 5 (first view = clean).
    """
    log_p = F.log_softmax(logits, dim=-1)
    return _kl(log_p[:1], log_p[1:]).sum(0) / max(len(logits) - 1, 1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ_c p (log p − log q); where p underflows to 0 its term is 0, in value and in gradient."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


DIVERGENCES: dict[str, Callable[[Tensor], Tensor]] = {"js": js_divergence, "kl": kl_divergence}


def as_distributions(logits: Tensor, target: Tensor) -> Tensor:
    """Logits (V·B, C) as categorical distributions; of multi-label targets each label is its own: (V·B·C, 2)."""
    if target.ndim == 1:
        return logits
    return torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(0, 1)


class ConsistencyLoss(nn.Module):
    """Cross entropy on the supervised views plus ``weight`` times a divergence between all views.

    Args:
        views: names of the stacked views, in the order of the stack.
        supervise: names among ``views`` whose cross entropy is averaged.
        weight: λ ≥ 0; with 0 the divergence is not computed.
        divergence: ``"js"``, or ``"kl"`` (from the first view to the others).

    Shapes:
        forward(logits (V·B, C), target (V·B,) classes or (V·B, C) labels) -> 0-d, in nats. Rows are view-major.
        After it, ``terms`` holds the detached 0-d parts: ``cross_entropy``, and ``consistency`` where weight > 0.

    Raises:
        ValueError: a supervised view is not stacked, the weight is negative, or rows are no multiple of V.

    Example:
        >>> loss = ConsistencyLoss(("clean", "adversarial"), supervise=("adversarial",), weight=12.0)
        >>> loss(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
        tensor(0.6931)
    """

    def __init__(
        self,
        views: Sequence[str],
        supervise: Sequence[str] = ("adversarial",),
        weight: float = 12.0,
        divergence: str = "js",
    ) -> None:
        super().__init__()
        self.views, self.supervise = tuple(views), tuple(supervise)
        absent = [name for name in self.supervise if name not in self.views]
        if absent or not self.supervise:
            raise ValueError(f"supervise: {list(self.supervise)} must name stacked views, one of {list(self.views)}")
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: {weight!r} is not a finite number >= 0")
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence: '{divergence}' is unknown; choose one of {sorted(DIVERGENCES)}")
        self.weight, self.divergence = float(weight), divergence
        self.terms: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the objective; see the class."""
        if len(logits) % len(self.views):
            raise ValueError(f"{len(logits)} rows are no multiple of the {len(self.views)} views {list(self.views)}")
        loss = self._supervised(logits, target)
        self.terms = {"cross_entropy": loss.detach()}
        if self.weight:
            distributions = as_distributions(logits, target).unflatten(0, (len(self.views), -1))
            size = len(logits) // len(self.views)  # of labels, the divergences are summed, as their cross entropies are
            consistency = DIVERGENCES[self.divergence](distributions).unflatten(0, (size, -1)).sum(1).mean()
            self.terms["consistency"] = consistency.detach()
            loss = loss + self.weight * consistency
        return loss

    def _supervised(self, logits: Tensor, target: Tensor) -> Tensor:
        rows = [self.views.index(name) for name in self.supervise]
        size = len(logits) // len(self.views)
        parts = [cross_entropy(logits[v * size : (v + 1) * size], target[v * size : (v + 1) * size]) for v in rows]
        return torch.stack([part.mean() for part in parts]).mean()
