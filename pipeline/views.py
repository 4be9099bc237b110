"""Views: everything that can be done to a batch of images before the network sees it.

    View = Callable[[nn.Module, Tensor, Tensor], Tensor]        view(model, x, y) -> x'

x' has the shape and the bounds of x. An augmentation is a view that ignores the model; an attack is a view that looks
at it. Views stand in an ordered mapping name -> view, in training and in evaluation alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from monai.engines.utils import IterationEvents, PrepareBatch, default_prepare_batch
from monai.transforms import Compose
from torch import Tensor, nn

from .attacks.frozen import plain as plain

View: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Clean:
    """The image itself."""

    name = "clean"
    facts: ClassVar[Mapping[str, Any]] = {"family": "clean"}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return x."""
        return x


class Augment:
    """A batch-first transform, (B, C, *spatial) -> the same, as a view.

    The transform is wrapped in MONAI's ``Compose``, because a bare MONAI ``Randomizable`` keeps the random state it was
    made with and ignores ``set_determinism``. A MONAI array transform would take the batch for channels: wrap it in
    :class:`PerImage` instead.

    Example:
        >>> Augment(lambda x: 1 - x)(nn.Identity(), torch.zeros(1, 1, 2), torch.zeros(1))
        tensor([[[1., 1.]]])
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.inner = transform
        self.transform = Compose([transform])

    def set_random_state(self, seed: int) -> None:
        """Seed the transform's own random state, if it has one."""
        self.transform.set_random_state(seed=seed)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the transformed images."""
        return plain(self.transform(x))


class PerImage(Augment):
    """A MONAI array transform, (C, *spatial) -> the same, applied to one image after the other with its own draw."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the transformed images."""
        return torch.stack([plain(self.transform(image)) for image in x])


@dataclass(frozen=True)
class Chain:
    """A view that starts from the tensor already made under the name ``parent``: it shares that view's draw.

    Example:
        ``{"augmented": Augment(t), "adversarial": Chain("augmented", PGD(ball))}`` attacks the augmented images.
    """

    parent: str
    view: View

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Apply the view to x, the parent's tensor."""
        return self.view(model, x, y)


def augmented_by(transforms: Sequence[Callable[[Tensor], Tensor]]) -> list[Augment]:
    """A view of each transform, such as those of ``shifts.grid``.

    Example:
        >>> len(augmented_by([torch.square, torch.sqrt]))
        2
    """
    return [Augment(transform) for transform in transforms]


def parent_of(view: View) -> str | None:
    """Name of the view that this one starts from; None is the clean image."""
    return view.parent if isinstance(view, Chain) else None


UNSTATED = "unstated"
"""What stands for an augmentation that does not say which groups it has seen, such as MONAI's."""


def seen(views: Mapping[str, View]) -> frozenset[str]:
    """Groups of acquisition shifts that training on these views has seen, as their augmentations state in ``groups``.

    An attack and the clean image see none. A shift whose group is among them is no test of the unforeseen.

    Example:
        >>> from types import SimpleNamespace
        >>> seen({"clean": Clean(), "augmented": Augment(SimpleNamespace(groups=frozenset({"contrast"})))})
        frozenset({'contrast'})
    """
    return frozenset().union(*map(_groups, views.values()))


def _groups(view: View) -> frozenset[str]:
    if isinstance(view, Chain):
        return _groups(view.view)
    return _stated(view.inner) if isinstance(view, Augment) else frozenset()


def _stated(transform: Any) -> frozenset[str]:
    if isinstance(transform, Compose):
        return frozenset().union(*map(_stated, transform.transforms))
    return frozenset(getattr(transform, "groups", {UNSTATED}))


def check_views(views: Mapping[str, View]) -> None:
    """Refuse a mapping in which a view stands before its parent."""
    seen: set[str] = set()
    for name, view in views.items():
        parent = parent_of(view)
        if parent is not None and parent not in seen:
            raise ValueError(
                f"views: '{name}' starts from '{parent}', which is not made before it; it has {list(seen)}"
            )
        seen.add(name)


def make_views(views: Mapping[str, View], model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Make all views of a batch, in order.

    Args:
        views: ordered name -> view; a :class:`Chain` must stand after its parent.
        model: what attacks look at.
        x: (B, C, *spatial), float32 in bounds.
        y: (B,) classes or (B, C) labels.

    Returns:
        name -> images of the shape of x, detached.
    """
    made: dict[str, Tensor] = {}
    for name, view in views.items():
        parent = parent_of(view)
        made[name] = view(model, x if parent is None else made[parent], y).detach()
    return made


class StackViews(PrepareBatch):
    """MONAI's ``prepare_batch``, enlarged: all views are made, and those named in ``stack`` become one batch.

    An ordinary supervised iteration on the enlarged batch is then a robust iteration. Rows are view-major: the first B
    rows are the first stacked view, and so on; labels are repeated likewise.

    Args:
        views: ordered name -> view.
        network: what attacks look at; the same object that the trainer steps.
        stack: names of the views to train on, in order; None is all of them.
        prepare: what turns a loader's batch into (image, label) on the device.
        fire: called with MONAI's INNER_ITERATION events before and after the views are made.

    Raises:
        ValueError: an unknown name in ``stack``, or a view before its parent.

    Example:
        >>> stacked = StackViews({"clean": Clean(), "negative": Augment(lambda x: 1 - x)}, nn.Identity())
        >>> x, y = stacked({"image": torch.zeros(2, 1, 4), "label": torch.tensor([0, 1])})
        >>> x.shape, y
        (torch.Size([4, 1, 4]), tensor([0, 1, 0, 1]))
    """

    def __init__(
        self,
        views: Mapping[str, View],
        network: nn.Module,
        stack: Sequence[str] | None = None,
        prepare: Callable[..., Any] = default_prepare_batch,
        fire: Callable[[IterationEvents], None] | None = None,
    ) -> None:
        check_views(views)
        self.views, self.network, self.prepare = dict(views), network, prepare
        self.stack = tuple(views if stack is None else stack)
        absent = [name for name in self.stack if name not in self.views]
        if absent or not self.stack:
            raise ValueError(f"stack: {list(self.stack)} must name views, some of {list(self.views)}")
        self.fire = fire or (lambda event: None)

    def __call__(
        self,
        batchdata: Any,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return (V·B, C, *spatial) images and (V·B, …) labels."""
        x, y = (plain(t) for t in self.prepare(batchdata, device, non_blocking, **kwargs))
        self.fire(IterationEvents.INNER_ITERATION_STARTED)
        made = make_views(self.views, self.network, x, y)
        self.fire(IterationEvents.INNER_ITERATION_COMPLETED)
        return torch.cat([made[name] for name in self.stack]), torch.cat([y] * len(self.stack))
