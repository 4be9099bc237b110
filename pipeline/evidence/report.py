"""One self-contained HTML page from evaluation's tables: finding, facts, results, curves, reliability, pictures.

Everything but the pictures is a pure function of the tables; the same input gives the same bytes. No file name and no
image id reaches the page, and the page fetches nothing.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import matplotlib.image
import numpy as np
import pandas as pd
import pyarrow as pa
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..files import write_whole
from .metrics import CONSTANT, RUN, reliability, reported_split, rms_grey_levels, summarise
from .table import facts_of

NORMS = {"l2": "ℓ2", "linf": "ℓ∞"}
SHARED = ("classes", "checksum_list", "image_size", "channels", "training_radius", "training_norm")
"""Facts that the tables of one report must agree in."""

# Figures are drawn in placeholder colours that become variables of the page's style sheet: they follow light and dark.
INK, MUTED, RULE = "#010101", "#020202", "#030303"
PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"), ("*", "★"))
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
SIGNED = LinearSegmentedColormap.from_list("signed", ["#7cc4ff", "#2f6fd0", "#0c0c0c", "#c2561a", "#ffc48a"])
MOST_PICTURES = 4
WITHIN_SCALE = 99
"""Per cent of the changed pixels whose difference the colour scale shows; the rest have the colour of its ends."""


@dataclass(frozen=True)
class Column:
    """A column of the main table: metric, head, and how its values read."""

    metric: str
    head: str
    percent: bool
    more_is_better: bool

    def text(self, value: float) -> str:
        """The value as printed: per cent with one decimal, or three decimals."""
        if math.isnan(value):
            return "–"
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}"


def percent(share: float) -> str:
    """A share as text, with a no-break space: 83.9 %."""
    return f"{100 * share:.1f}\u00a0%"


AUROC = Column("auroc", "AUROC, %", percent=True, more_is_better=True)
BALANCED = Column("balanced_accuracy", "Balanced accuracy, %", percent=True, more_is_better=True)
AT_HALF = Column("balanced_accuracy_at_half", "Balanced accuracy at 0.5, %", percent=True, more_is_better=True)
BRIER = Column("brier", "Brier score", percent=False, more_is_better=False)
ECE = Column("ece", "ECE", percent=False, more_is_better=False)


@dataclass(frozen=True)
class Series:
    """A method in the figures: label, number of its colour in the style sheet, marker of matplotlib and of the key."""

    label: str
    number: int
    marker: str
    glyph: str

    @property
    def colour(self) -> str:
        """The placeholder that stands for its colour while it is drawn."""
        return f"#0400{self.number:02x}"


@dataclass(frozen=True)
class Results:
    """The tables of one report as data frames, each row with the label of its `method` (recipe, λ, checkpoint).

    `images` are all rows of all splits; `metrics` and `constant` are the summary of the reported split.
    """

    images: pd.DataFrame
    metrics: pd.DataFrame
    constant: pd.DataFrame
    facts: dict[str, Any]
    split: str

    @property
    def series(self) -> list[Series]:
        """The methods in order of appearance."""
        labels = enumerate(self.metrics["method"].unique())
        return [Series(label, i % len(MARKERS) + 1, *MARKERS[i % len(MARKERS)]) for i, label in labels]

    @property
    def tuned_on(self) -> bool:
        """Whether checkpoints, and the threshold, were chosen on the very images that are reported."""
        return self.split == "validation"

    @property
    def columns(self) -> list[Column]:
        """The columns of the main table: 0.5 is a threshold for two classes only."""
        return [AUROC, BALANCED, *([AT_HALF] if len(self.facts["classes"]) == 2 else []), BRIER, ECE]

    def over_seeds(self, view: str, metric: str) -> pd.DataFrame:
        """Mean, standard deviation, least and greatest of a metric over the runs of each method."""
        rows = self.metrics[self.metrics["view"] == view]
        return rows.groupby("method", sort=False)[metric].agg(["mean", "std", "min", "max"])

    def of_constant(self, metric: str, view: str = "clean") -> float:
        """A metric of the classifier that answers the prior."""
        return float(self.constant.set_index("view").loc[view, metric])

    def pgd(self) -> pd.DataFrame:
        """The PGD-20 views in the training norm: view, epsilon; rising."""
        views = self.constant[self.constant["norm"] == self.facts["training_norm"]]
        return views[views["view"].str.match(r"pgd20_[^_]+_[^_]+$")].sort_values("epsilon")[["view", "epsilon"]]

    def attacked(self) -> str | None:
        """The PGD-20 view at the training ε; None where it was not evaluated."""
        views = self.pgd()
        at = views[np.isclose(views["epsilon"], self.facts["training_radius"], rtol=1e-3)]
        return None if at.empty else str(at["view"].iloc[0])

    def ball(self, norm: str, radius: float) -> str:
        """A radius as it stands wherever one is shown: with its norm, the image size and its RMS in grey levels."""
        grey = rms_grey_levels(radius, self.facts["image_size"], self.facts["channels"], norm)
        most = "at most " if norm == "linf" else ""
        size = self.facts["image_size"]
        return f"{NORMS[norm]} ε = {radius:.3g} at {size} × {size}, RMS {most}{grey:.2f} grey levels of 255"


def write_report(
    tables: Sequence[pa.Table], examples: Sequence[Path], out: Path, title: str, names: Sequence[str] | None = None
) -> Path:
    """Write one self-contained HTML page that compares runs of one bundle.

    Args:
        tables: evaluation's tables with their metadata, in the order of the report.
        examples: evaluation's `.npz` files, one per run: `clean`, `augmented`, `adversarial` (n, 1, rows, columns)
            float32 in [0, 1]; `labels`, `predicted_clean`, `predicted_adversarial` (n,); `recipe`, `epsilon`, `norm`.
        out: the file to write; missing folders are made.
        title: heading of the page.
        names: what a refusal calls each table; None: table 1, table 2, …

    Returns:
        `out`.

    Raises:
        ValueError: no tables; tables that differ in bundle, split, views, classes, image size, channels, training
            radius or data list; pictures that are not (n, 1, rows, columns); or as `metrics.summarise`.
        OSError: the file could not be written.
    """
    results = read(tables, names)
    templates = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=templates, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        title=title,
        results=results,
        finding=finding(results),
        certainty=_certainty(results),
        facts=_facts(results),
        runs=_runs(results),
        repeated=_repeated(results),
        blocks=[_block(results, view) for _, view in results.constant.iterrows()],
        curves=[_curve(results, column) for column in (BALANCED, AUROC)],
        reliability=[_reliability(results, view) for view in ("clean", results.attacked()) if view],
        pictures=_pictures([_load(path) for path in examples], results),
        commonest=_commonest(results),
    )
    return write_whole(out, page.encode())


def read(tables: Sequence[pa.Table], names: Sequence[str] | None = None) -> Results:
    """Tables, each summarised with its own metadata, as `Results`; raises as `write_report`."""
    if not tables:
        raise ValueError("report: tables: none; give at least one evaluated run")
    names = names or [f"table {number}" for number in range(1, len(tables) + 1)]
    facts = [facts_of(table) for table in tables]
    _refuse_unlike(names, [_shared(table, fact) for table, fact in zip(tables, facts, strict=True)])
    own = [
        {"name": name, "weight": fact["consistency_weight"], "checksum": fact["checksum_weights"], "seen": _seen(fact)}
        for name, fact in zip(names, facts, strict=True)
    ]
    images = pd.concat([table.to_pandas().assign(**add) for table, add in zip(tables, own, strict=True)])
    summary = pd.concat([summarise(table).assign(**add) for table, add in zip(tables, own, strict=True)])
    split, constant = reported_split(summary), summary["recipe"] == CONSTANT
    rows = summary[~constant]
    twice = rows[rows.duplicated([*RUN, "weight", "checksum", "split", "view"])]
    if not twice.empty:
        raise ValueError(f"{twice['name'].iloc[0]}: run: stands twice in the report; give it once")
    return Results(
        images=images.assign(method=_methods(images)),
        metrics=rows.assign(method=_methods(rows))[rows["split"] == split],
        constant=summary[constant & (summary["split"] == split)].drop_duplicates("view"),
        facts=facts[0],
        split=split,
    )


def _seen(facts: Mapping[str, Any]) -> str:
    """Groups of shifts that the augmentation of a run has seen; an older table does not say."""
    return ", ".join(facts["seen"]) or "none" if "seen" in facts else "not stated"


def _shared(table: pa.Table, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables of one report must agree in: a report compares like with like."""
    columns = table.select(["bundle", "split", "view"]).to_pandas()
    return {
        "bundle": set(columns["bundle"]),
        **{name: facts[name] for name in SHARED},
        "split": reported_split(columns),
        "views": (set(columns["view"]), facts.get("parameters")),
    }


def _refuse_unlike(names: Sequence[str], shared: Sequence[Mapping[str, Any]]) -> None:
    cures = {"split": "evaluate both on the same --split", "views": "evaluate both with the same --preset"}
    for name, own in zip(names, shared, strict=True):
        for field, value in own.items():
            if value != shared[0][field]:
                cure = cures.get(field, "a report compares like with like, so write two reports")
                raise ValueError(f"{name}: {field.replace('_', ' ')}: not as in {names[0]}; {cure}")


def finding(results: Results) -> str:
    """The report's one sentence: which recipe keeps most balanced accuracy under PGD-20 at the training ε."""
    view = results.attacked()
    scores = results.over_seeds(view or "clean", BALANCED.metric)["mean"].sort_values(ascending=False, kind="stable")
    floor = results.of_constant(BALANCED.metric)
    shown, constant = [percent(score) for score in scores], f"a constant answer has {percent(floor)}"
    ball = results.ball(results.facts["training_norm"], results.facts["training_radius"])
    where = f"Under PGD-20 at the training radius, {ball}," if view else "On clean images"
    if scores.iloc[0] <= floor:
        return f"{where} no recipe has more balanced accuracy than a constant answer: {constant}, the best {shown[0]}."
    if len(scores) == 1:
        clean = percent(results.over_seeds("clean", BALANCED.metric)["mean"].iloc[0])
        beside = f", on clean images {clean}" if view else ""
        return f"{where} {scores.index[0]} has a balanced accuracy of {shown[0]}{beside}; {constant}."
    if shown[0] == shown[1]:
        names = " and ".join(name for name, text in zip(scores.index, shown, strict=True) if text == shown[0])
        return f"{where} {names} have the same balanced accuracy, {shown[0]}; {constant}."
    second = f"{scores.index[1]} has {shown[1]}"
    return f"{where} {scores.index[0]} has the most balanced accuracy, {shown[0]}; {second}, {constant}."


def _repeated(results: Results) -> bool:
    """Whether some method ran with several seeds."""
    return bool((results.metrics.groupby(["method", "view"]).size() > 1).any())


def _certainty(results: Results) -> str:
    runs = results.metrics.drop_duplicates(["method", *RUN]).groupby("method").size()
    least, most = runs.min(), runs.max()
    means = f"Means over {least if least == most else f'{least} to {most}'} runs."
    one = "One run of each recipe: differences of a few points may be chance."
    chosen = " Checkpoints were chosen on these very images, so other images will do worse." if results.tuned_on else ""
    return f"{one if most == 1 else means} No difference is tested here.{chosen}"


def _methods(rows: pd.DataFrame) -> pd.Series[str]:
    """Labels: the recipe, with λ, checkpoint or checksum of the weights only where these tell methods apart."""
    by_weight = rows.groupby("recipe")["weight"].transform("nunique") > 1
    labels = rows["recipe"].where(~by_weight, rows["recipe"] + rows["weight"].map(", λ = {:g}".format))
    labels = labels + (", " + rows["checkpoint"] if rows["checkpoint"].nunique() > 1 else "")
    twins = rows.groupby([*RUN, "weight"], dropna=False)["checksum"].transform("nunique") > 1
    return labels.where(~twins, labels + ", weights " + rows["checksum"].str[:6])


def _facts(results: Results) -> list[tuple[str, str]]:
    facts = results.facts
    size, channels = facts["image_size"], facts["channels"]
    clean = results.images[results.images["view"] == "clean"]
    prior = [f"{name} {percent(share)}" for name, share in zip(facts["classes"], facts["training_prior"], strict=True)]
    return [
        ("Bundle", str(clean["bundle"].iloc[0])),
        *[(f"Images, {split}", _census(rows, facts["classes"])) for split, rows in clean.groupby("split", sort=False)],
        ("Training prior", ", ".join(prior)),
        ("Intensities", f"[0, 1], {size} × {size} pixels, {channels} channel{'s' if channels > 1 else ''}"),
        ("Training radius", results.ball(facts["training_norm"], facts["training_radius"])),
        ("Threshold", "; ".join(_threshold_source(results))),
        ("Data list", f"SHA-256 {facts['checksum_list'][:12]}…"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        ("Trained in", facts["training_precision"]),
        ("Threads", str(facts["threads"])),
    ]


def _threshold_source(results: Results) -> list[str]:
    words = {
        "clean validation": "of highest balanced accuracy on the run’s own clean validation images",
        "argmax": "none: the class of highest probability is predicted",
    }
    return [words.get(source, source) for source in results.metrics["threshold_source"].unique()]


def _census(rows: pd.DataFrame, classes: Sequence[str]) -> str:
    images = rows.drop_duplicates("image_id")
    counts = images["label"].value_counts()
    patients = images["patient_id"].nunique()
    parts = ", ".join(f"{counts.get(k, 0)} {name}" for k, name in enumerate(classes))
    return f"{len(images)} ({parts}), {patients if patients else 'unknown number of'} patients"


def _commonest(results: Results) -> tuple[str, str]:
    """The commonest class of the reported split and its share: the accuracy that costs nothing."""
    images = results.images[(results.images["split"] == results.split) & (results.images["view"] == "clean")]
    shares = images.drop_duplicates("image_id")["label"].value_counts(normalize=True)
    return results.facts["classes"][shares.index[0]], percent(shares.iloc[0])


def _runs(results: Results) -> list[dict[str, str]]:
    rows = results.metrics.drop_duplicates(["method", *RUN])
    return [
        {
            "recipe": row["recipe"],
            "weight": f"{row['weight']:g}",
            "seed": str(row["seed"]),
            "seen": row["seen"],
            "checkpoint": row["checkpoint"],
            "threshold": "–" if math.isnan(row["threshold"]) else f"{row['threshold']:.3f}",
            "checksum": f"{row['checksum'][:12]}…",
        }
        for _, row in rows.iterrows()
    ]


def _block(results: Results, view: pd.Series[Any]) -> dict[str, Any]:
    """One view of the main table: heading, n, and a row of cells for each method and the constant."""
    columns = results.columns
    values = [results.over_seeds(view["view"], column.metric) for column in columns]
    rows = [(CONSTANT, [(column.text(view[column.metric]), "") for column in columns])]
    for method in reversed(values[0].index):
        own = [value.loc[method] for value in values]
        rows.insert(0, (method, [_mean_and_spread(column, row) for column, row in zip(columns, own, strict=True)]))
    best = [_best(column, [cells[i][0] for _, cells in rows]) for i, column in enumerate(columns)]
    heading, detail = _named(results, view)
    return {
        "heading": heading,
        "detail": detail,
        "n": int(view["n"]),
        "rows": [
            {"label": label, "constant": label == CONSTANT, "cells": list(zip(cells, best, strict=True))}
            for label, cells in rows
        ],
    }


def _mean_and_spread(column: Column, values: pd.Series[float]) -> tuple[str, str]:
    return column.text(values["mean"]), "" if math.isnan(values["std"]) else f"± {column.text(values['std'])}"


def _best(column: Column, texts: Sequence[str]) -> str | None:
    """The best of the printed values; None where it is the constant's, the last, or nothing is compared."""
    *found, constant = [text for text in texts if text != "–"] or ["–"]
    if len(found) < 2:
        return None
    best = (max if column.more_is_better else min)([constant, *found], key=float)
    return None if best == constant else best


def _named(results: Results, view: pd.Series[Any]) -> tuple[str, str]:
    """Heading and detail of a view."""
    if view["family"] == "attack":
        name = re.sub(r"(?<=[A-Z])(?=\d)", "-", view["view"].split("_")[0].upper())
        start = view["view"].partition("_from_")[2]
        return name + (f" from {start}" if start else ""), results.ball(view["norm"], view["epsilon"])
    if view["family"] == "clean":
        return "Clean images", ""
    words = re.sub(r"_\d+$", "", view["view"]).replace("_", " ").capitalize()
    severity = "" if pd.isna(view["severity"]) else f"severity {view['severity']} of 5"
    return words, ", ".join(filter(None, (severity, "" if pd.isna(view["parameter"]) else view["parameter"])))


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


def _curve(results: Results, column: Column) -> Markup:
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


def _reliability(results: Results, view: str) -> Markup:
    """Accuracy over top-label confidence on one view of the reported split, all seeds of a method together."""
    images = results.images[(results.images["split"] == results.split) & (results.images["view"] == view)]
    start = 100 / len(results.facts["classes"])
    heading = ", ".join(filter(None, _named(results, results.constant.set_index("view", drop=False).loc[view])))

    def draw(axes: Axes) -> None:
        axes.plot([start, 100], [start, 100], color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
        for series in results.series:
            rows = images[images["method"] == series.label]
            bins = 100 * reliability(rows["label"], np.stack(rows["probabilities"].tolist()), bins=8)
            line: dict[str, Any] = {"color": series.colour, "marker": series.marker, "markersize": 4, "linewidth": 1}
            axes.plot(bins["confidence"], bins["accuracy"], clip_on=False, **line)
        axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(start, 100), ylim=(0, 100))
        axes.set_title(heading.partition(", RMS")[0], loc="left", fontsize=10, pad=10)

    return _svg(draw, f"Reliability diagram: accuracy over confidence. {heading}")


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        example = {name: file[name][:MOST_PICTURES] if file[name].ndim else file[name] for name in file.files}
    for name in ("clean", "augmented", "adversarial"):
        if example[name].ndim != 4 or example[name].shape[1] != 1:
            shape, file = example[name].shape, f"{path.parent.name}/{path.name}"
            raise ValueError(f"{file}: {name}: {shape}, not (n, 1, rows, columns); write the report with --no-pictures")
    return example


def _pictures(examples: Sequence[dict[str, NDArray[Any]]], results: Results) -> dict[str, Any] | None:
    """The picture grid: one factor and one colour scale for every difference; None without examples.

    The scale ends at a high percentile, not at the largest difference, which is a single pixel's: beside it, all others
    would be black.
    """
    if not examples:
        return None
    differences = np.concatenate([np.abs(e["adversarial"] - e["clean"]).ravel() for e in examples])
    factor = _factor(differences)
    return {
        "factor": f"{factor:g}",
        "limit": f"{255 / factor:.3g}",
        "beyond": percent(float((differences * factor > 1).mean())),
        "largest": f"{255 * differences.max(initial=0):.3g}",
        "scale": _png(np.linspace(0, 1, 256)[None], SIGNED),
        "groups": [_group(example, factor, results) for example in examples],
    }


def _factor(differences: NDArray[Any]) -> float:
    """What brings most of the changed pixels within the scale: a round number; 1 where nothing changed."""
    changed = differences[differences > 0]
    return _round_down(1 / float(np.percentile(changed, WITHIN_SCALE))) if changed.size else 1.0


def _group(example: dict[str, NDArray[Any]], factor: float, results: Results) -> dict[str, Any]:
    classes = results.facts["classes"]
    difference = ((example["adversarial"] - example["clean"]) * factor + 1) / 2
    shown = [example["clean"], example["augmented"], example["adversarial"]]
    answers = zip(example["labels"], example["predicted_clean"], example["predicted_adversarial"], strict=True)
    return {
        "recipe": str(example["recipe"]),
        "ball": results.ball(str(example["norm"]), float(example["epsilon"])),
        "rows": [
            {
                "names": [classes[int(k)] for k in answer],
                "images": [*(_png(images[i, 0]) for images in shown), _png(difference[i, 0], SIGNED)],
            }
            for i, answer in enumerate(answers)
        ],
    }


def _round_down(value: float) -> float:
    """The greatest of 1, 2, 5, 10, 20, … that is not above a value; 1 for less."""
    steps = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    return float(max((step for step in steps if step <= value), default=1))


def _png(image: NDArray[Any], colours: Colormap | str = "gray") -> str:
    """An image (rows, columns) in [0, 1] as a data URI."""
    buffer = io.BytesIO()
    mpl.image.imsave(buffer, image, cmap=colours, vmin=0, vmax=1, format="png", metadata={"Software": ""})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
