"""What an evaluation needs of a classifier, as one value; and how it is put together from what is known of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from ..evidence.evaluation import settings_of
from .preprocessing import Cut, ToUnit, cut, of_films
from .programs import ModelError
from .stages import InRange, Repeated, staged

Perturbed = Literal["gradient", "random", "nothing"]
Output = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class Stated:
    """What its user says of a model; None leaves it to what the model says of itself.

    Attributes:
        classes: names of its outputs, in order.
        image_size: (rows, columns) or (depth, rows, columns) that it takes; a bundle's own preprocessing knows it.
        channels: that it takes; where these are several, a film is repeated on them.
        value_range: of the images that it takes, or of those that its preprocessing gives before a normalisation.
        output: what it gives; None lets its outputs on images tell.
        random_weights: take the network of a bundle that comes without weights.
    """

    classes: tuple[str, ...] | None = None
    image_size: tuple[int, ...] | None = None
    channels: int | None = None
    value_range: tuple[float, float] | None = None
    output: Output | None = None
    random_weights: bool = False


@dataclass(frozen=True)
class LoadedModel:
    """A classifier that can be evaluated.

    Attributes:
        name: of the bundle, or the file's without its ending; what its rows are called.
        network: (B, C, *spatial) float32 in [0, 1] -> logits (B, K); attacks on it, and what comes of them, go through
            ``normalisation.holding(network, start)``, ``start`` being the images that the attack starts from.
        transform: item of a data list -> {"image": float32 (C, *spatial) in [0, 1], "label": int}.
        classes: names of the logits, in order.
        output: what its user says that it gives; None lets the check tell.
        perturbed: by ``gradient``: all attacks; ``random``: no gradients, only random perturbations in a ball;
            ``nothing``: ε has no meaning on its images, only clean and shifted ones.
        left_out: what cannot be evaluated on it, and why, a line each.
        notes: what was decided in reading it, a line each.
        facts: kind, version, checksums of weights and settings; of our own also recipe, seed and ``rtda``.
        image_size: of the images; known once it was checked on some.
        channels: likewise.
    """

    name: str
    network: nn.Module
    transform: Callable[[Mapping[str, Any]], dict[str, Any]]
    classes: tuple[str, ...]
    output: Output | None = None
    perturbed: Perturbed = "gradient"
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    image_size: tuple[int, ...] = ()
    channels: int = 0

    def without(self, perturbed: Perturbed, reason: str) -> LoadedModel:
        """The same with fewer attacks, and the reason; one that has fewer already stays as it is."""
        ranks: tuple[Perturbed, ...] = ("nothing", "random", "gradient")
        if ranks.index(self.perturbed) <= ranks.index(perturbed):
            return self
        instead = "random perturbations stand in" if perturbed == "random" else "clean and shifted images remain"
        return replace(self, perturbed=perturbed, left_out=(*self.left_out, f"attacks: {reason}; {instead}"))

    def noting(self, *lines: str) -> LoadedModel:
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *lines))


def assembled(
    name: str,
    network: nn.Module,
    stated: Stated,
    *,
    preprocessing: Any = None,
    reader: Any = None,
    metadata: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The network between its stages, and the chain that makes its images.

    Args:
        name: of the model.
        network: as its makers call it.
        stated: what its user says, which goes before the metadata.
        preprocessing: the model's own, a MONAI transform; None reads films as the bundles here do.
        reader: MONAI reader for the latter.
        metadata: as in a bundle's ``metadata.json``.
        config: where preprocessing comes from; part of the checksum of settings.
        facts: of the model.

    Raises:
        ModelError: classes, value range or image size are not known, or make no sense.
    """
    own, metadata = preprocessing is not None, metadata or {}
    known = _known(name, stated, metadata, sized=not own)
    classes, value_range = known.classes or (), known.value_range or (0.0, 1.0)
    parts = cut(preprocessing) if own else of_films(reader, known.image_size or ())
    scaled = InRange(*value_range) if value_range != (0, 1) else None
    repeated = Repeated(known.channels) if not own and known.channels and known.channels > 1 else None
    settings = [config, classes, value_range, None if own else [known.image_size, known.channels, settings_of(reader)]]
    version = {"version": metadata["version"]} if "version" in metadata else {}
    model = LoadedModel(
        name=name,
        network=staged(scaled, repeated, *parts.normalisations, network),
        transform=ToUnit(parts.chain, value_range if own else (0.0, 1.0), name),
        classes=classes,
        output=stated.output,
        notes=tuple(_notes(parts, value_range, repeated)),
        facts={**(facts or {}), **version, "settings_sha256": _checksum(settings)},
    )
    return model.without("nothing", parts.fault) if parts.fault else model


def _checksum(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _notes(parts: Cut, value_range: tuple[float, float], repeated: Repeated | None) -> Iterator[str]:
    if value_range != (0, 1):
        yield "value_range: {:g} to {:g} is [0, 1] of the images, and the unit of ε".format(*value_range)
    if repeated is not None:
        yield f"channels: the film is repeated on {repeated.channels} inside the model; the ball lies on the film"
    if parts.normalisations:
        yield "normalisation: inside the model; while an attack moves an image, its statistics are the clean image's"


def _known(name: str, stated: Stated, metadata: Mapping[str, Any], sized: bool) -> Stated:
    """What its user states, else its metadata; what is needed and in neither is refused."""
    try:
        own = _in_metadata(metadata)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{name}: network_data_format: not as MONAI's metadata have it; correct it") from error
    known = Stated(*(getattr(stated, key) or getattr(own, key) for key in Stated.__dataclass_fields__))
    if not known.classes:
        raise ModelError(f"{name}: classes: unknown; give --classes with the names of its outputs, in order")
    if len(set(known.classes)) < max(2, len(known.classes)):
        raise ModelError(f"{name}: classes: {', '.join(known.classes)}; give two or more different names")
    if known.value_range is None:
        raise ModelError(f"{name}: value_range: unknown; give --value-range of the images that it takes, such as 0,1")
    low, high = known.value_range
    if not low < high:
        raise ModelError(f"{name}: value_range: {low:g} to {high:g} does not rise; give the lowest and the highest")
    if sized and not known.image_size:
        raise ModelError(f"{name}: image_size: unknown; give --image-size of the images that it takes, such as 224")
    return known


def _in_metadata(metadata: Mapping[str, Any]) -> Stated:
    formats = metadata.get("network_data_format", {})
    image, pred = formats.get("inputs", {}).get("image", {}), formats.get("outputs", {}).get("pred", {})
    named, shape = pred.get("channel_def", {}), image.get("spatial_shape", [])
    low, high = image.get("value_range") or (None, None)
    return Stated(
        classes=tuple(str(named[key]) for key in sorted(named, key=int)),
        image_size=tuple(shape) if all(type(length) is int for length in shape) else None,
        channels=image.get("num_channels"),
        value_range=None if low is None or high is None else (float(low), float(high)),
    )
