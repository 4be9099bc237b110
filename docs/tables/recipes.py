"""Tables of a page from the measured figures of a bundle's recipes.

    python docs/tables/recipes.py results/chest_xray docs/chest_xray.md
    python docs/tables/recipes.py results/chest_xray_study docs/chest_xray_study.md
    python docs/tables/recipes.py results/chest_xray_full docs/chest_xray_full.md
    python docs/tables/recipes.py results/chest_xray_224 docs/chest_xray_224.md

Every `<recipe>-<seed>.json` of the folder is what `rtda evaluate` wrote as metrics.json. The tables replace what stands
in the page between `<!-- figures -->` and `<!-- /figures -->`; everything in them comes from these files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ORDER = (
    *("standard", "augmentation", "augmix", "adversarial"),
    *("adversarial_augmentation", "robust_augmix", "rtda"),
)
METRICS = {
    "auroc": "AUROC, %",
    "balanced_accuracy_at_half": "Balanced accuracy at 0.5, %",
    "balanced_accuracy": "Balanced accuracy at the threshold of clean validation, %",
    "brier": "Brier score",
    "nll": "Negative log likelihood, nats",
}
FLOOR = {  # recipe -> view -> (AUROC, balanced accuracy at 0.5), per cent
    "standard": {"clean": (92.5, 65.2), "contrast_down_5": (64.3, 50.0)},
    "augmentation": {"clean": (94.6, 78.0), "contrast_down_5": (94.5, 78.1)},
    "augmix": {"clean": (94.8, 75.0), "contrast_down_5": (94.5, 77.6)},
    "adversarial": {"clean": (92.9, 74.3), "pgd20_l2_0.571": (76.5, 62.1), "contrast_down_5": (90.5, 50.0)},
    "adversarial_augmentation": {
        "clean": (92.8, 79.2),
        "pgd20_l2_0.571": (76.4, 66.6),
        "contrast_down_5": (91.9, 82.7),
    },
    "robust_augmix": {"clean": (93.5, 76.8), "pgd20_l2_0.571": (78.4, 65.7), "contrast_down_5": (92.0, 77.6)},
    "rtda": {"clean": (93.8, 79.0), "pgd20_l2_0.571": (80.5, 67.7), "contrast_down_5": (91.9, 78.9)},
}
"""What a first trial reached: one seed, six epochs, untuned, the same split, 64 × 64."""
FLOOR_SIZE = 64
SLACK = 3  # points below the first trial that still count as reached

SHOWN, RANKED = (3, 5), ("auroc", "balanced_accuracy")  # severities and metrics of these tables; the files hold all

Figures = dict[str, Any]


def read(folder: Path) -> list[Figures]:
    """The files' contents in the order of recipes and seeds; refuses what cannot stand in one table."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-*.json"))]
    for field in ("bundle", "split", "checksum_list", "image_size", "training_radius", "intervals"):
        if len({str(one[field]) for one in found}) != 1:
            raise SystemExit(f"{folder.name}: {field}: differs between the files; evaluate all alike")
    return sorted(found, key=lambda one: (ORDER.index(one["recipe"]), one["seed"]))


def tables(found: Sequence[Figures]) -> str:
    """All tables as Markdown."""
    first = found[0]
    head = (
        f"{first['images']} *{first['split']}* films of {first['patients']} patients; "
        f"in brackets: {first['intervals']}. "
        f"ε is ℓ2 {first['training_radius']:.3g} at {first['image_size']} × {first['image_size']}. In bold: the best."
    )
    floor = [_floor(found)] if first["image_size"] == FLOOR_SIZE else []
    metrics = [_metric(found, metric) for metric in METRICS]
    grid = severities(found) == [1, 2, 3, 4, 5]
    shifts = [_by_shift(found, severity, metric) for severity in SHOWN for metric in RANKED] if grid else []
    return "\n\n".join([head, *metrics, _across(found), *shifts, *floor, _made(found)])


def _metric(found: Sequence[Figures], metric: str) -> str:
    views = [view for view in found[0]["views"] if view == "clean" or shown(view) != view]  # a study has many more
    less = metric in ("brier", "nll")
    best = {view: (min if less else max)(one["views"][view][metric][0] for one in found) for view in views}

    def cell(one: Figures, view: str) -> str:
        text = _text(metric, one["views"][view][metric][0])
        bold = text == _text(metric, best[view])
        return _bounded(metric, one["views"][view][metric]).replace(text, f"**{text}**" if bold else text, 1)

    rows = [[_name(one, found), *(cell(one, view) for view in views)] for one in found]
    constant = ["*constant (class prior)*", *[_text(metric, found[0]["constant"][metric])] * len(views)]
    return f"**{METRICS[metric]}**\n\n" + _markdown(["recipe", *map(shown, views)], [*rows, constant])


def _across(found: Sequence[Figures]) -> str:
    """What holds over all attacks up to ε and over all shifts that were evaluated, and whether it can be believed."""
    kinds, steps = len(found[0]["shifts"]["of"]), len(severities(found))
    rows = [
        [
            _name(one, found),
            _bounded("", one["attacks"]["worst_case_balanced_accuracy"]),
            _bounded("", one["shifts"]["mean_error"]),
            f"{one['shifts']['worst'].replace('_', ' ')}: {_bounded('', one['shifts']['worst_balanced_accuracy'])}",
            _bounded("", one["shifts"]["worst_case_balanced_accuracy"]),
            one["masking"]["verdict"] if one["masking"] else "not run",
        ]
        for one in found
    ]
    each = "one severity" if steps == 1 else f"{steps} severities"
    title = f"**Over attacks up to ε, and over {kinds} kinds of shift at {each}**, in %"
    head = ["recipe", "right under every attack", "mean error over shifts", "worst shift", "right under every shift"]
    return f"{title}\n\n" + _markdown([*head, "gradient-masking checks"], rows)


def severities(found: Sequence[Figures]) -> list[int]:
    """The severities that were evaluated."""
    views = {view: found[0]["views"][view] for views in found[0]["shifts"]["of"].values() for view in views}
    return sorted({one["severity"] for one in views.values()})


def _by_shift(found: Sequence[Figures], severity: int, metric: str) -> str:
    """What each recipe keeps under each kind of shift at one severity."""
    rows = []
    for kind, views in found[0]["shifts"]["of"].items():
        (view,) = (view for view in views if found[0]["views"][view]["severity"] == severity)
        figures = [one["views"][view][metric] for one in found]
        best = _text("", max(value for value, *_ in figures))
        cells = [_bounded("", three).replace(best, f"**{best}**", _text("", three[0]) == best) for three in figures]
        rows.append([f"{kind.replace('_', ' ')}: {found[0]['views'][view]['parameter']}", *cells])
    title = f"**Under each shift at severity {severity} of 5: {METRICS[metric]}**"
    return f"{title}\n\n" + _markdown(["shift", *(_name(one, found) for one in found)], rows)


def _bounded(metric: str, figures: Sequence[float | None]) -> str:
    """A figure with its interval."""
    value, low, high = (_text(metric, number) for number in figures)
    return f"{value} ({low}–{high})"


def _floor(found: Sequence[Figures]) -> str:
    rows = []
    for one in found:
        for view, figures in FLOOR[one["recipe"]].items():
            for metric, before in zip(("auroc", "balanced_accuracy_at_half"), figures, strict=True):
                value, least = 100 * one["views"][view][metric][0], before - SLACK
                reached = "reached" if value >= least else "**missed**"
                rows.append([_name(one, found), shown(view), METRICS[metric], f"{value:.1f}", f"{least:.1f}", reached])
    title = f"**The floor**: what a first trial reached (one seed, six epochs, untuned), less {SLACK} points"
    return f"{title}\n\n" + _markdown(["recipe", "view", "metric", "here", "floor", ""], rows)


def _made(found: Sequence[Figures]) -> str:
    rows = []
    for one in found:
        training = one["training"]
        rows.append(
            [
                _name(one, found),
                f"{training['best_epoch']} of {training['epochs']}",
                f"{training['seconds']:,}",
                training["computed_in"],
                f"{one['threshold']:.3g}",
                f"{one['temperature']:.2f}",
                f"`{one['checksum_weights'][:12]}`",
            ]
        )
    head = ["recipe", "epoch chosen", "training, s", "computed in", "threshold", "temperature", "weights, SHA-256"]
    return "**How they were made**\n\n" + _markdown(head, rows)


def shown(view: str) -> str:
    """A view's name as people say it."""
    for pattern, words in VIEWS:
        if match := re.fullmatch(pattern, view):
            return words(match)
    return view


VIEWS: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"fgsm_l2_(.+)", lambda match: f"FGSM ε = {match[1]}"),
    (r"pgd(\d+)_l2_(.+)", lambda match: f"PGD-{match[1]} ε = {match[2]}"),
    (r"pgd(\d+)_margin_x(\d+)_l2_(.+)", lambda match: f"PGD-{match[1]} × {match[2]} on the margin, ε = {match[3]}"),
    (r"pgd(\d+)_linf_(.+)", lambda match: f"PGD-{match[1]}, ℓ∞ ε = {match[2]}"),
    (r"random(\d+)_l2_(.+)", lambda match: f"worst of {match[1]} random, ε = {match[2]}"),
    ("contrast_down_5", lambda match: "contrast × 0.4"),
    ("contrast_up_5", lambda match: "contrast × 1.6"),
    ("gaussian_noise_5", lambda match: "noise σ = 0.08"),
]


def _name(one: Figures, found: Sequence[Figures]) -> str:
    several = len({other["seed"] for other in found}) > 1
    return f"{one['recipe']}, seed {one['seed']}" if several else str(one["recipe"])


def _text(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if metric in ("brier", "nll") else f"{100 * value:.1f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: str, content: str) -> str:
    """The page with the content between its marks."""
    marks = "<!-- figures -->", "<!-- /figures -->"
    if any(page.count(mark) != 1 for mark in marks):
        raise SystemExit(f"page: marks: {' and '.join(marks)} must stand once each")
    before, after = page.split(marks[0])[0], page.split(marks[1])[1]
    return f"{before}{marks[0]}\n\n{content}\n\n{marks[1]}{after}"


if __name__ == "__main__":
    folder, page = map(Path, sys.argv[1:])
    page.write_text(filled(page.read_text(encoding="utf-8"), tables(read(folder))), encoding="utf-8")
