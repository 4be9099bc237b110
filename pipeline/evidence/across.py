"""What is asked of several views at once: the worst case over attacks and over shifts, and errors averaged over shifts.

Error is 1 − balanced accuracy throughout. A kind of shift is its views but for their severity (``contrast_down``), and
counts as the mean over the severities that were evaluated, so that kinds weigh alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from . import bootstrap
from .answers import Answers
from .bootstrap import Counts, Values
from .outcomes import problems, right
from .scores import one_hot

SLACK = 1e-3
"""Relative: views are named by three digits of ε."""


def pgd_views(views: pd.DataFrame, norm: str) -> pd.DataFrame:
    """The PGD-20 views in a norm, rising in ε; ``views`` has columns view, norm, epsilon."""
    own = views[(views["norm"] == norm) & views["view"].str.match(r"pgd20_[^_]+_[^_]+$")]
    return own.sort_values("epsilon")[["view", "epsilon"]]


def attacked_view(views: pd.DataFrame, facts: Mapping[str, Any]) -> str | None:
    """The PGD-20 view at the training ε; None where it was not evaluated."""
    pgd = pgd_views(views, facts["training_norm"])
    at = pgd[np.isclose(pgd["epsilon"], facts["training_radius"], rtol=SLACK)]
    return None if at.empty else str(at["view"].iloc[0])


def attacks_within(answers: Answers) -> list[str]:
    """The attacks in the training norm at most at the training ε: those that a robust model should withstand."""
    views = answers.views[answers.views["family"] == "attack"]
    if views.empty:
        return []
    limit = answers.facts["training_radius"] * (1 + SLACK)
    within = (views["norm"] == answers.facts["training_norm"]) & (views["epsilon"] <= limit)
    return [str(view) for view in views.index[within]]


def kinds_of_shift(answers: Answers) -> dict[str, list[str]]:
    """Kind -> its views, one a severity, in order of appearance."""
    kinds: dict[str, list[str]] = {}
    for view, severity in answers.views[answers.views["family"] == "shift"]["severity"].items():
        name = str(view)
        kinds.setdefault(name if pd.isna(severity) else name.removesuffix(f"_{severity:.0f}"), []).append(name)
    return kinds


def worst_shift(answers: Answers) -> str | None:
    """The view of family shift with the least balanced accuracy, the first of equals; None without any."""
    shifts = [view for views in kinds_of_shift(answers).values() for view in views]
    everyone = bootstrap.once(len(answers.labels))
    return min(shifts, key=lambda view: float(balanced(answers, [view], everyone)[0]), default=None)


def across(answers: Answers, drawn: Counts) -> dict[str, dict[str, Values]]:
    """Metrics over several views in each replicate; for the values themselves, ``drawn`` is ``bootstrap.once``.

    Returns:
        ``attacks`` and ``shifts``, where there are any, -> metric -> (draws,):

        * ``worst_case_accuracy`` and ``worst_case_balanced_accuracy``: an image counts as right if it is right in every
          attack in the training norm at most at the training ε; in every shift.
        * ``worst_balanced_accuracy`` (shifts): that of :func:`worst_shift`, which does not change with the draws.
        * ``mean_error``: over kinds, of the mean over severities; ``relative_mean_error``: less the clean error, where
          clean images were evaluated.
    """
    found = {}
    if attacks := attacks_within(answers):
        found["attacks"] = _worst_case(answers, attacks, drawn)
    worst = worst_shift(answers)
    if worst is not None:
        kinds = kinds_of_shift(answers)
        errors = np.mean(list(_errors(answers, drawn).values()), axis=0)
        found["shifts"] = {
            **_worst_case(answers, [view for views in kinds.values() for view in views], drawn),
            "worst_balanced_accuracy": balanced(answers, [worst], drawn),
            "mean_error": errors,
        }
        if "clean" in answers.logits:
            found["shifts"]["relative_mean_error"] = errors - _clean_error(answers, drawn)
    return found


def corruption_errors(answers: Answers, baseline: Answers, drawn: Counts) -> dict[str, Values]:
    """Mean corruption error and relative mCE against a baseline run on the same images and views, in each replicate.

    mCE = mean over kinds of Σ_s E_s / Σ_s E'_s, E the errors at severities s and E' those of the baseline. Relative mCE
    takes E − E_clean for E and E' − E'_clean for E'. Of the baseline itself both are 1, and less is better. NaN where a
    baseline makes no error in a kind, or no more than on clean images: then there is nothing to compare with. Empty
    where there is no shift; without relative mCE where there are no clean images.

    Source:
        Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR
        2019, §4 (there of top-1 error, in per cent of AlexNet's).
    """
    ours, theirs = _errors(answers, drawn), _errors(baseline, drawn)
    if not theirs:
        return {}
    found = {"mce": np.mean([_ratio(ours[kind], theirs[kind]) for kind in theirs], axis=0)}
    if "clean" in answers.logits:
        clean, clean_theirs = _clean_error(answers, drawn), _clean_error(baseline, drawn)
        more = [_ratio(ours[kind] - clean, theirs[kind] - clean_theirs) for kind in theirs]
        found["relative_mce"] = np.mean(more, axis=0)
    return found


def balanced(answers: Answers, views: Sequence[str], drawn: Counts) -> Values:
    """Balanced accuracy in each replicate, where an image is right if it is right in each of the views."""
    truths = [one_hot(y, z.shape[1]) for y, z in problems(answers.labels, answers.logits[views[0]])]
    hits = _right_in_all(answers, views)
    each = [bootstrap.balanced(drawn, hits[:, k], truth) for k, truth in enumerate(truths)]
    return np.asarray(np.mean(each, axis=0))


def _right_in_all(answers: Answers, views: Sequence[str]) -> Any:
    return np.all([right(answers.labels, answers.logits[view], answers.rules) for view in views], axis=0)


def _worst_case(answers: Answers, views: Sequence[str], drawn: Counts) -> dict[str, Values]:
    return {
        "worst_case_accuracy": bootstrap.mean(drawn, _right_in_all(answers, views).mean(axis=1)),
        "worst_case_balanced_accuracy": balanced(answers, views, drawn),
    }


def _errors(answers: Answers, drawn: Counts) -> dict[str, Values]:
    """Kind of shift -> its error, the mean over its severities."""
    return {
        kind: 1 - np.mean([balanced(answers, [view], drawn) for view in views], axis=0)
        for kind, views in kinds_of_shift(answers).items()
    }


def _clean_error(answers: Answers, drawn: Counts) -> Values:
    return 1 - balanced(answers, ["clean"], drawn)


def _ratio(error: Values, baseline: Values) -> Values:
    return np.divide(error, baseline, out=np.full_like(error, np.nan), where=baseline > 1e-12)
