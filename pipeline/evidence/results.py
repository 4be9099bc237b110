"""The tables of one report as data frames: what they share, what each method reached, over seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from .across import attacked_view, pgd_views
from .answers import RUN, reported_split
from .comparison import refuse_unlike, shared_facts
from .metrics import CONSTANT, rms_grey_levels, summarise, validated_temperature
from .table import facts_of

NORMS = {"l2": "ℓ2", "linf": "ℓ∞"}
MIDDLE = 3
"""Severity at which the shifts are compared."""
MOST_SHIFTS = 8
"""Shift views that stand one by one in the table of results; more are shown as a map and as curves."""

OBJECTIVES = {"margin": " on the margin", "kl": " on the divergence from the clean answer"}

MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"), ("*", "★"))


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

    `images` are all rows of all splits; `metrics` and `constant` are the summary of the reported split; `facts` are
    those of the first table, `notes` what each says of itself, heading and text; `masking` are the gradient-masking
    checks by the name of the table, None where they were not run.
    """

    images: pd.DataFrame
    metrics: pd.DataFrame
    constant: pd.DataFrame
    facts: dict[str, Any]
    notes: list[tuple[str, str]]
    split: str
    masking: dict[str, dict[str, Any] | None]

    @property
    def series(self) -> list[Series]:
        """The methods in order of appearance."""
        labels = enumerate(self.metrics["method"].unique())
        return [Series(label, i % len(MARKERS) + 1, *MARKERS[i % len(MARKERS)]) for i, label in labels]

    @property
    def multilabel(self) -> bool:
        """Whether each class is a label of its own; a metric is then the mean over labels."""
        return bool(self.facts.get("multilabel"))

    @property
    def radius_name(self) -> str:
        """What the radius is: that of training, or one to go by for a model that states none."""
        return "reference radius" if self.facts.get("reference") else "training radius"

    @property
    def tuned_on(self) -> bool:
        """Whether checkpoints, and the threshold, were chosen on the very images that are reported."""
        return self.split == "validation"

    @property
    def columns(self) -> list[Column]:
        """The columns of the main table: 0.5 is a threshold for two classes only."""
        binary = self.multilabel or len(self.facts["classes"]) == 2
        return [AUROC, BALANCED, *([AT_HALF] if binary else []), BRIER, ECE]

    def over_seeds(self, view: str, metric: str) -> pd.DataFrame:
        """Mean, standard deviation, least and greatest of a metric over the runs of each method."""
        rows = self.metrics[self.metrics["view"] == view]
        return rows.groupby("method", sort=False)[metric].agg(["mean", "std", "min", "max"])

    def of_constant(self, metric: str, view: str = "clean") -> float:
        """A metric of the classifier that answers the prior."""
        return float(self.constant.set_index("view").loc[view, metric])

    def pgd(self) -> pd.DataFrame:
        """The PGD-20 views in the training norm: view, epsilon; rising."""
        return pgd_views(self.constant, self.facts["training_norm"])

    def attacked(self) -> str | None:
        """The PGD-20 view at the training ε; None where it was not evaluated."""
        return attacked_view(self.constant, self.facts)

    def shifts(self) -> pd.DataFrame:
        """The shift views in order: view, kind, group (empty where the table does not say), severity, parameter."""
        views = self.constant[(self.constant["family"] == "shift") & self.constant["severity"].notna()]
        kinds = views["view"].str.replace(r"_\d+$", "", regex=True)
        groups = self.facts.get("groups", {})
        return views[["view", "severity", "parameter"]].assign(
            kind=kinds, group=[groups.get(view, "") for view in views["view"]]
        )

    @property
    def grid(self) -> pd.DataFrame:
        """The shifts of kinds that have a severity 3, where these are more than a table can show; else none."""
        shifts = self.shifts()
        own = shifts[shifts["kind"].isin(shifts.loc[shifts["severity"] == MIDDLE, "kind"])]
        return own if len(own) > MOST_SHIFTS else own.iloc[:0]

    def ball(self, norm: str, radius: float) -> str:
        """A radius as it stands wherever one is shown: with its norm, the image size and its RMS in grey levels."""
        grey = rms_grey_levels(radius, self.facts["image_size"], self.facts["channels"], norm, self.dimensions)
        most = "at most " if norm == "linf" else ""
        return f"{NORMS[norm]} ε = {radius:.3g} at {self.size}, RMS {most}{grey:.2f} grey levels of 255"

    @property
    def dimensions(self) -> int:
        """2 of films, 3 of volumes."""
        return int(self.facts.get("dimensions", 2))

    @property
    def size(self) -> str:
        """Of the images, as it is shown: 64 × 64."""
        return " × ".join([str(self.facts["image_size"])] * self.dimensions)


def read(tables: Sequence[pa.Table], names: Sequence[str] | None = None) -> Results:
    """Tables, each summarised with its own metadata, as `Results`; raises as `write_report`."""
    if not tables:
        raise ValueError("report: tables: none; give at least one evaluated run")
    names = names or [f"table {number}" for number in range(1, len(tables) + 1)]
    facts = [facts_of(table) for table in tables]
    cure = "a report compares like with like, so write two reports"
    refuse_unlike(names, [shared_facts(table) for table in tables], cure)
    fitted = [validated_temperature(table) for table in tables]
    own = [
        {"name": name, "weight": _weight(fact), "checksum": fact["checksum_weights"], "seen": _seen(fact)}
        | {"temperature": temperature}
        for name, fact, temperature in zip(names, facts, fitted, strict=True)
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
        notes=_notes(tables, facts),
        split=split,
        masking={name: fact.get("masking") for name, fact in zip(names, facts, strict=True)},
    )


def _notes(tables: Sequence[pa.Table], facts: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What was left out of each, and what else it says of itself; by whom, where there are several."""
    said = [
        (heading, f"{table['recipe'][0]}: {line}" if len(tables) > 1 else line)
        for heading, field in (("Left out", "left_out"), ("Note", "notes"))
        for table, own in zip(tables, facts, strict=True)
        for line in own.get(field, [])
    ]
    return list(dict.fromkeys(said))


def _weight(facts: Mapping[str, Any]) -> float:
    """λ; NaN of a model that was not trained here."""
    weight = facts["consistency_weight"]
    return math.nan if weight is None else float(weight)


def _seen(facts: Mapping[str, Any]) -> str:
    """Groups of shifts that the augmentation of a run has seen; an older table does not say."""
    return ", ".join(facts["seen"]) or "none" if "seen" in facts else "not stated"


def _methods(rows: pd.DataFrame) -> pd.Series[str]:
    """Labels: the recipe, with bundle, λ, checkpoint or checksum of the weights only where these tell methods apart."""
    by_bundle = (rows["bundle"].nunique() > 1) & (rows["bundle"] != rows["recipe"])  # foreign models have no recipe
    by_weight = rows.groupby(["bundle", "recipe"])["weight"].transform("nunique") > 1
    labels = rows["recipe"].where(~by_bundle, rows["recipe"] + ", " + rows["bundle"])
    labels = labels.where(~by_weight, labels + rows["weight"].map(", λ = {:g}".format))
    labels = labels + (", " + rows["checkpoint"] if rows["checkpoint"].nunique() > 1 else "")
    twins = rows.groupby([*RUN, "weight"], dropna=False)["checksum"].transform("nunique") > 1
    return labels.where(~twins, labels + ", weights " + rows["checksum"].str[:6])


def shift_named(results: Results, name: str) -> str:
    """Heading and detail of a shift by the name of its view, in one line."""
    rows = results.constant[results.constant["view"] == name]
    return ", ".join(filter(None, named(results, rows.iloc[0]))) if len(rows) else name


def _attack(view: str) -> str:
    """An attack as people call it.

    Example:
        >>> _attack("pgd100_margin_x5_l2_0.571"), _attack("random100_l2_0.571")
        ('PGD-100 on the margin, 5 starts', 'Worst of 100 random perturbations')
    """
    own, _, start = view.partition("_from_")
    kind, *parts = own.split("_")
    name = re.sub(r"(?<=[A-Z])(?=\d)", "-", kind.upper())
    name = re.sub(r"^RANDOM-(\d+)$", r"Worst of \1 random perturbations", name)
    name += "".join(words for objective, words in OBJECTIVES.items() if objective in parts)
    name += "".join(f", {part[1:]} starts" for part in parts if re.fullmatch(r"x\d+", part))
    return name + (f" from {start}" if start else "")


def named(results: Results, view: pd.Series[Any]) -> tuple[str, str]:
    """Heading and detail of a view."""
    if view["family"] == "attack":
        return _attack(view["view"]), results.ball(view["norm"], view["epsilon"])
    if view["family"] == "clean":
        return "Clean images", ""
    words = re.sub(r"_\d+$", "", view["view"]).replace("_", " ")
    words = words[:1].upper() + words[1:]
    severity = "" if pd.isna(view["severity"]) else f"severity {view['severity']} of 5"
    return words, ", ".join(filter(None, (severity, "" if pd.isna(view["parameter"]) else view["parameter"])))
