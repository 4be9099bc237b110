"""Figures of the report as inline SVG, in the page's own colours, which follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import softmax

from .answers import labels_of
from .calibration import reliability
from .outcomes import problems
from .results import BALANCED, NORMS, Column, Results, named

# Figures are drawn in placeholder colours that become variables of the page's style sheet: they follow light and dark.
INK, MUTED, RULE = "#010101", "#020202", "#030303"
PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rtda",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
}


def _svg(draw: Callable[[Axes], None], title: str, size: tuple[float, float] = (4.3, 3.2)) -> Markup:
    """What `draw` puts on the axes, as inline SVG in the page's own colours and font."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    box = re.search(r'viewBox="[^"]*"', text)
    head = Markup('<svg {} role="img"><title>{}</title>').format(Markup(box.group() if box else ""), title)
    for placeholder, variable in PAGE_COLOURS.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r"#0400([0-9a-f]{2})", lambda match: f"var(--series-{int(match[1], 16)})", text)
    return head + Markup(re.sub(r"^<svg.*?>", "", text, count=1, flags=re.DOTALL))


def curve(results: Results, column: Column) -> Markup:
    """A metric over ε: clean images, then the PGD-20 views; vertical bars are the range over seeds."""
    views = pd.concat([pd.DataFrame({"view": ["clean"], "epsilon": [0.0]}), results.pgd()])

    def draw(axes: Axes) -> None:
        axes.axhline(100 * results.of_constant(column.metric), color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
        for series in results.series:
            table = [results.over_seeds(view, column.metric).loc[series.label] * 100 for view in views["view"]]
            low, mean, high = (np.array([row[name] for row in table]) for name in ("min", "mean", "max"))
            line: dict[str, Any] = {"color": series.colour, "marker": series.marker, "markersize": 5, "linewidth": 1.4}
            axes.errorbar(views["epsilon"], mean, (mean - low, high - mean), elinewidth=0.9, clip_on=False, **line)
        axes.set_xticks(views["epsilon"], [_tick(e, results.facts["training_radius"]) for e in views["epsilon"]])
        axes.set(xlabel=f"radius of PGD-20, {norm}, at {size} × {size}", ylim=(0, 100))
        axes.set_title(column.head, loc="left", fontsize=10, pad=10)

    names = ", ".join(series.label for series in results.series)
    norm, size = NORMS[results.facts["training_norm"]], results.facts["image_size"]
    return _svg(
        draw, f"{column.head} over the radius of PGD-20, for {names}; the numbers stand in the table of results"
    )


def _tick(epsilon: float, radius: float) -> str:
    factor = {0.0: "clean", 0.5: "ε/2", 1.0: "ε", 2.0: "2ε"}.get(round(epsilon / radius, 3), "")
    return f"{epsilon:.3g}\n{factor}"


def severities(results: Results, kind: str) -> Markup:
    """Balanced accuracy over the severity of one kind of shift; severity 0 is the clean image."""
    views = results.shifts()
    views = views[views["kind"] == kind].sort_values("severity")
    names, places = ["clean", *views["view"]], [0, *views["severity"]]

    def draw(axes: Axes) -> None:
        axes.axhline(100 * results.of_constant(BALANCED.metric), color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
        for series in results.series:
            means = [100 * results.over_seeds(name, BALANCED.metric).loc[series.label, "mean"] for name in names]
            line: dict[str, Any] = {"color": series.colour, "marker": series.marker, "markersize": 4, "linewidth": 1.2}
            axes.plot(places, means, clip_on=False, **line)
        axes.set(xticks=range(6), ylim=(0, 100), yticks=(0, 50, 100))
        axes.set_title(kind.replace("_", " "), loc="left", fontsize=11, pad=8)

    return _svg(draw, f"Balanced accuracy over the severity of {kind.replace('_', ' ')}", (2.9, 2.1))


def reliability_diagram(results: Results, view: str, scaled: bool = False) -> Markup:
    """Accuracy over top-label confidence on one view of the reported split, all seeds of a method together.

    Scaled: after each run's own temperature, fitted on its clean validation images.
    """
    images = results.images[(results.images["split"] == results.split) & (results.images["view"] == view)]
    start = 50 if results.multilabel else 100 / len(results.facts["classes"])
    heading = ", ".join(filter(None, named(results, results.constant.set_index("view", drop=False).loc[view])))
    if scaled:
        first = heading[0] if heading[:2].isupper() else heading[0].lower()  # PGD, but clean images
        heading = f"After temperature: {first}{heading[1:]}"

    def draw(axes: Axes) -> None:
        axes.plot([start, 100], [start, 100], color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
        for series in results.series:
            rows = images[images["method"] == series.label]
            logits = np.stack(rows["logits"].tolist()).astype(np.float64)
            logits = logits / rows[["temperature"]].to_numpy() if scaled else logits
            labels, logits = map(np.concatenate, zip(*problems(labels_of(rows), logits), strict=True))
            bins = 100 * reliability(labels, softmax(logits, axis=1), bins=8)
            line: dict[str, Any] = {"color": series.colour, "marker": series.marker, "markersize": 4, "linewidth": 1}
            axes.plot(bins["confidence"], bins["accuracy"], clip_on=False, **line)
        axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(start, 100), ylim=(0, 100))
        axes.set_title(heading.partition(", RMS")[0], loc="left", fontsize=10, pad=10)

    return _svg(draw, f"Reliability diagram: accuracy over confidence. {heading}")
