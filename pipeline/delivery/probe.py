"""A model is asked about a few images before long work begins: what it cannot do is said now, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import frozen
from ..data.lists import file_of
from ..normalisation import holding
from .infer import reason
from .loaded import LoadedModel
from .programs import ModelError, first_line
from .stages import Logarithm, LogOdds, Ordered, staged

IMAGES = 16
"""Images that are looked at, evenly spread over the list."""


def checked(
    model: LoadedModel, items: Sequence[Mapping[str, Any]], classes: Sequence[str], multilabel: bool = False
) -> LoadedModel:
    """The model with its logits in the order of the list's classes, once it did well on some of the images.

    Args:
        model: as it was loaded.
        items: those that will be evaluated.
        classes: the data list's, in label order.
        multilabel: whether each class is a label of its own, with a probability of its own.

    Raises:
        ModelError: the list's classes are not the model's; an image leaves the bounds, or they differ in size; outputs
            are not (images, classes), not finite, no probabilities though stated as such, differ from call to call, or
            depend on the other images of the batch.
    """
    order = _order(model, classes)
    x = images(model, items)
    outputs = _outputs(model, x)
    _refuse_dependence(model, x, outputs)
    probabilities = _are_probabilities(model, outputs, multilabel)
    log = (LogOdds() if multilabel else Logarithm()) if probabilities else None
    turned = Ordered(order) if order != sorted(order) else None
    model = replace(
        model,
        network=staged(model.network, log, turned).to(x.device),
        classes=tuple(classes),
        image_size=tuple(x.shape[2:]),
        channels=x.shape[1],
    )
    if probabilities:
        model = model.noting(
            "output: probabilities, evaluated by their logarithms, or log odds of labels; where float32 rounds one to "
            "0 or 1 an attack finds no gradient, which looks like robustness"
        )
    return _with_gradient(model, x[:4]) if model.perturbed == "gradient" else model


def images(model: LoadedModel, items: Sequence[Mapping[str, Any]]) -> Tensor:
    """Some of the items as a batch (B, C, *spatial) in [0, 1], on the model's device."""
    made = [_image(model, item) for item in items[:: max(1, len(items) // IMAGES)][:IMAGES]]
    shapes = {tuple(image.shape) for image in made}
    if len(shapes) > 1:
        told = " and ".join(map(str, sorted(shapes)[:2]))
        raise ModelError(f"{model.name}: image: shapes {told}; its preprocessing must give one size")
    x = torch.stack(made)
    if bool(x.amax() - x.amin() < 0.01):
        raise ModelError(
            f"{model.name}: image: all values within 1 % of its bounds, so that ε would mean nothing; "
            "state their range by --value-range"
        )
    return x.to(next((t.device for t in chain(model.network.parameters(), model.network.buffers())), x.device))


def _image(model: LoadedModel, item: Mapping[str, Any]) -> Tensor:
    file = file_of(Path(item["image"]))
    try:
        made: Tensor = model.transform(item)["image"]
    except ModelError:
        raise
    except Exception as error:  # MONAI wraps whatever a transform raises
        raise ModelError(f"{model.name}: preprocessing of {file.name}: {reason(error, file)}") from error
    return made


def _order(model: LoadedModel, classes: Sequence[str]) -> list[int]:
    """Which of its outputs each of the list's classes is."""
    for has, names, lacking in (("the list", classes, model.classes), ("the model", model.classes, classes)):
        if only := [name for name in names if name not in lacking]:
            raise ModelError(
                f"{model.name}: classes: only {has} has {', '.join(only)}; give --classes with the list's names "
                f"({', '.join(classes)}) in the order of the model's outputs"
            )
    return [model.classes.index(name) for name in classes]


def _outputs(model: LoadedModel, x: Tensor) -> Tensor:
    """(B, K), finite."""
    outputs, known = _asked(model, x), len(model.classes)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        kind = f"tensor of {outputs.dtype}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(f"{model.name}: logits: {kind}, not a tensor of floats; wrap it in a module:function")
    if outputs.shape != (len(x), known):
        cure = "wrap it in a module:function that gives one output a class"
        if outputs.ndim == 2 and outputs.shape[1] > 1:
            cure = f"give --classes with {outputs.shape[1]} names"
        raise ModelError(f"{model.name}: logits: {list(outputs.shape)} of {len(x)} images and {known} classes; {cure}")
    if not bool(outputs.isfinite().all()):
        wrong = int((~outputs.isfinite()).any(1).sum())
        raise ModelError(
            f"{model.name}: logits: not finite on {wrong} of {len(x)} images; check its weights and --value-range"
        )
    return outputs.float()


def _asked(model: LoadedModel, x: Tensor) -> Any:
    try:
        with frozen(model.network) as network, torch.no_grad():
            return network(x)
    except Exception as error:  # whatever a stranger's code raises
        shape = list(x.shape[1:])
        raise ModelError(
            f"{model.name}: network: fails on images {shape}: {first_line(error)}; check its preprocessing, or "
            "--image-size and --channels"
        ) from error


def _are_probabilities(model: LoadedModel, outputs: Tensor, multilabel: bool) -> bool:
    """Whether rows are distributions, or a probability for each label; refused where they contradict what is stated."""
    inside = bool((outputs >= 0).all() and (outputs <= 1).all())
    if multilabel:
        return _are_probabilities_of_labels(model, inside)
    whole = inside and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())
    if model.output == "probabilities" and not whole:
        raise ModelError(
            f"{model.name}: output: rows are no probabilities of {len(model.classes)} classes that sum to 1; "
            "state --gives logits, or wrap it in a module:function"
        )
    if model.output is None and inside and not whole:
        raise ModelError(
            f"{model.name}: output: in [0, 1], but rows do not sum to 1; state --gives logits if they are logits, "
            "or wrap it in a module:function that gives one logit a class"
        )
    return whole and model.output != "logits"


def _are_probabilities_of_labels(model: LoadedModel, inside: bool) -> bool:
    if model.output == "probabilities" and not inside:
        raise ModelError(f"{model.name}: output: not in [0, 1]; state --gives logits, or wrap it in a module:function")
    if model.output is None and inside:
        raise ModelError(
            f"{model.name}: output: in [0, 1], as probabilities are and logits may be; state --gives probabilities or "
            "--gives logits"
        )
    return model.output == "probabilities"


def _refuse_dependence(model: LoadedModel, x: Tensor, outputs: Tensor) -> None:
    """The outputs of an image must be the same in every call and in every company."""
    half = len(x) // 2 + 1
    among = torch.cat([outputs[:1], outputs.flip(0)[:half]])
    alone = torch.cat([_outputs(model, x[:1]), _outputs(model, x.flip(0)[:half])])
    if _same(alone, among):
        return
    fault = "logits depend on the other images of the batch"
    if not _same(_outputs(model, x), outputs):
        fault = "two calls on the same images differ"
    raise ModelError(f"{model.name}: network: {fault}; export it in evaluation mode, as after network.eval()")


def _same(a: Tensor, b: Tensor) -> bool:
    """Up to what sums of another order differ by."""
    return bool((a - b).abs().amax() <= 1e-3 * b.abs().amax() + 1e-6)


def _with_gradient(model: LoadedModel, x: Tensor) -> LoadedModel:
    """The model as it is where gradients reach the image; else without attacks that need them."""
    fault = _gradient_fault(holding(model.network, x), x)
    return model.without("random", fault) if fault else model


def _gradient_fault(network: nn.Module, x: Tensor) -> str:
    with frozen(network) as f:
        x = x.clone().requires_grad_()
        try:
            logits = f(x)
            (gradient,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), x, allow_unused=True)
        except RuntimeError as error:
            return f"no gradient: {first_line(error)}"
    if gradient is None:
        return "no gradient reaches the image"
    if not bool(gradient.isfinite().all()):
        return "its gradient is not finite"
    return "" if bool(gradient.any()) else "its gradient is 0 on all images looked at"
