"""The gate: named checks of an evaluation under attack, and the verdict that follows from them.

Pure values: ``masking.py`` computes the figures, reports show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

Verdict = Literal["believable", "masked", "not decidable"]

MEANINGS = {
    "one class": "By the class of highest probability, which is what the checks ask, it answers nearly all images "
    "alike: the accuracy of such answers under attack is the share of that class.",
    "repeatable": "The logits change with the call or with the batch: an attack climbs one draw and is judged by "
    "another. Fix the draw, or attack the mean over draws.",
    "ties": "Logits are coarser than what noise changes, as in bfloat16: what an attack gains is rounded away, and "
    "ties look like robustness. Compute in float32.",
    "zero gradient": "Where the margin has no gradient an attack stands still, and that it fails says nothing. Attack "
    "without gradients, or through a smooth stand-in.",
    "cross entropy": "Cross entropy in float32 has saturated: attacks that climb it stand still, and their figures are "
    "masked; those made here climb its logarithm or the margin. Divide the logits by a constant: no decision changes.",
    "slope": "The gradient is not the slope of the logits: some part is detached, rounds, or draws at random.",
    "noise ≥ FGSM": "A step along the gradient harms less than noise of the same size: the gradient misleads.",
    "FGSM ≥ PGD-100 × 5": "Five times 100 steps harm less than one: further away from the image the gradient misleads.",
    "random ≥ PGD-20": "The best of 100 random draws harms more than PGD, which misses what is there.",
    "PGD-20 ≥ PGD-100 × 5": "Five times 100 steps on the margin harm less than 20 steps: the attack loses its way.",
    "convergence": "PGD-100 × 5 harms much more than PGD-20, whose accuracy is too high; better steps may harm still "
    "more. Quote the lowest, and attack with steps that adapt.",
    "falling in ε": "A larger radius harms less, though it allows all that a smaller one does.",
    "16ε": "At 16ε little is left of an image, and yet it is recognised: the attack is at fault, not the image.",
    "one class at 16ε": "Attacked at 16ε it answers one class for everything: chance by collapse, not by the attack.",
    "planted example": "With the decision moved so that an adversarial image surely lies within ε, PGD-20 misses it.",
    "PGD ≥ APGD": "APGD harms less than PGD: one of the two attacks is broken.",
    "Square ≥ APGD": "An attack without gradients harms more than the best one with them: the gradient is masked.",
}
"""Name of a check -> what its failure means, in the order in which they are shown."""

CURVE = ("PGD-20 at ε/2", "PGD-20", "PGD-20 at 2ε")
GAP = 0.06  # between PGD-20 and stronger attacks honest networks show 1 to 4 points


@dataclass(frozen=True)
class Check:
    """One comparison, written so that it passes where ``figure <= limit``.

    Args:
        name: one of ``MEANINGS``.
        figure: an accuracy or a share in [0, 1]; None where it was not computed, and ``note`` says why.
        limit: the largest figure that passes, one image of slack included.
        note: why there is no figure.
        failing: what a failure makes of the verdict, unless another one says "masked".
        needed: False for attacks that have not joined yet: their lines are shown and decide nothing.

    Example:
        >>> Check("noise ≥ FGSM", figure=0.75, limit=0.5).passed
        False
    """

    name: str
    figure: float | None
    limit: float
    note: str = ""
    failing: Verdict = "masked"
    needed: bool = True

    @property
    def passed(self) -> bool | None:
        """Whether it holds, up to the rounding of a sum of shares; None where there is no figure."""
        return None if self.figure is None else self.figure <= self.limit + 1e-9

    @property
    def meaning(self) -> str:
        """What a failure means."""
        return MEANINGS[self.name]


def not_run(name: str, why: str, needed: bool = True) -> Check:
    """A check without a figure."""
    return Check(name, None, 0.0, f"not run: {why}", needed=needed)


def comparisons(accuracies: Mapping[str, float], n: int) -> list[Check]:
    """The checks that compare attacks with each other, with one image of ``n`` as slack.

    Args:
        accuracies: of noise, random, FGSM, PGD-20 at ε/2, PGD-20, PGD-20 at 2ε and PGD-100 × 5.
        n: number of images.

    Example:
        >>> same = dict.fromkeys(["noise", "random", "FGSM", *CURVE, "PGD-100 × 5"], 0.75)
        >>> [check.name for check in comparisons(same | {"FGSM": 0.9}, 100) if not check.passed]
        ['noise ≥ FGSM']
    """
    a, pgd, best = accuracies, accuracies["PGD-20"], accuracies["PGD-100 × 5"]
    rise = max(a[wide] - a[narrow] for narrow, wide in pairwise(CURVE))
    return [
        Check("noise ≥ FGSM", a["FGSM"], a["noise"] + 1 / n),
        Check("FGSM ≥ PGD-100 × 5", best, a["FGSM"] + 1 / n),  # PGD-20 reaches 99.5 % of a step on a linear network
        Check("random ≥ PGD-20", pgd, a["random"] + 1 / n),
        Check("PGD-20 ≥ PGD-100 × 5", best, pgd + 1 / n),
        Check("convergence", pgd - best, GAP + 1 / n, failing="not decidable"),
        Check("falling in ε", rise, 1 / n),
    ]


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Believable only if every needed check was run and passed.

    Example:
        >>> verdict_of([Check("noise ≥ FGSM", 0.5, 0.5), not_run("slope", "no gradient")])
        'not decidable'
    """
    failures = {check.failing for check in checks if check.passed is False}
    if "masked" in failures:
        return "masked"
    undecided = any(check.needed and check.passed is None for check in checks)
    return "not decidable" if undecided or failures else "believable"


@dataclass(frozen=True)
class Gate:
    """What the checks found.

    Args:
        checks: in the order in which they are shown.
        accuracies: by the name of the attack, in [0, 1].
        facts: images of each class, norm, radius, seed, and passes of the network per image.

    Example:
        >>> print(Gate((Check("noise ≥ FGSM", 0.75, 0.5),), {}, {}))
        masked: noise ≥ FGSM
          FAILED  noise ≥ FGSM          0.750, limit 0.500
                  A step along the gradient harms less than noise of the same size: the gradient misleads.
    """

    checks: tuple[Check, ...]
    accuracies: Mapping[str, float]
    facts: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        """See :func:`verdict_of`."""
        return verdict_of(self.checks)

    @property
    def failed(self) -> list[str]:
        """Names of the failed checks."""
        return [check.name for check in self.checks if check.passed is False]

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "verdict": self.verdict,
            "failed": self.failed,
            "checks": [asdict(check) | {"passed": check.passed, "meaning": check.meaning} for check in self.checks],
            "accuracies": dict(self.accuracies),
            "facts": dict(self.facts),
        }

    def __str__(self) -> str:
        words = {True: "passed", False: "FAILED", None: ""}
        lines = [": ".join(filter(None, [self.verdict, ", ".join(self.failed)]))]
        for check in self.checks:
            shown = check.note if check.figure is None else f"{check.figure:.3f}, limit {check.limit:.3f}"
            lines.append(f"  {words[check.passed]:8}{check.name:22}{shown}")
            lines += [f"          {check.meaning}"] if check.passed is False else []
        return "\n".join(lines)
