"""MONAI's supervised trainer on a batch enlarged by views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents, default_prepare_batch
from monai.utils.enums import CommonKeys
from torch import nn

from .views import StackViews, View


class RobustTrainer(SupervisedTrainer):
    """``SupervisedTrainer`` whose batches are stacked views; everything else is MONAI's own.

    The loss sees all V·B rows. From ``BACKWARD_COMPLETED`` on, ``engine.state.output`` holds only the B rows of the
    supervised view (the loss's first ``supervise``, else the first stacked one), so that decollation, post-processing,
    metrics and stock handlers see an ordinary batch.

    Args:
        views: ordered name -> view; see :mod:`rtda.pipeline.views`.
        network: the network to train; attacks look at the same object. Precision and compilation belong to it
            (:class:`rtda.pipeline.networks.AsCalled`).
        stack: names of the views to train on; None is all of them.
        prepare_batch: turns the loader's batch into (image, label), before views are made.
        **kwargs: arguments of MONAI's ``SupervisedTrainer``.

    Raises:
        ValueError: ``amp`` or ``compile`` is set: MONAI would apply them after the attack, to the step alone; or the
            loss names other ``views`` than the stack: it would read the wrong rows.

    Example:
        see ``README.md``, "Fifteen lines of Python", which is run as a test.
    """

    def __init__(
        self,
        *,
        views: Mapping[str, View],
        network: nn.Module,
        stack: Sequence[str] | None = None,
        prepare_batch: Callable[..., Any] = default_prepare_batch,
        **kwargs: Any,
    ) -> None:
        for option in ("amp", "compile"):
            if kwargs.get(option):
                raise ValueError(
                    f"{option}: would reach the step but not the attack; wrap the network in AsCalled instead"
                )
        stacked = StackViews(views, network, stack, prepare_batch, fire=self.fire_event)
        self.views = stacked.views  # before the handlers are attached: some read them
        super().__init__(network=network, prepare_batch=stacked, **kwargs)
        views_of_loss = tuple(getattr(self.loss_function, "views", stacked.stack))
        if views_of_loss != stacked.stack:
            raise ValueError(f"loss_function: its views {list(views_of_loss)} are not the stack {list(stacked.stack)}")
        supervised = getattr(self.loss_function, "supervise", stacked.stack)[0]
        self.supervised = (stacked.stack.index(supervised), len(stacked.stack))
        self.add_event_handler(IterationEvents.BACKWARD_COMPLETED, _keep_supervised_view)


def _keep_supervised_view(engine: RobustTrainer) -> None:
    index, views = engine.supervised
    output = engine.state.output
    for key in (CommonKeys.IMAGE, CommonKeys.LABEL, CommonKeys.PRED):
        size = len(output[key]) // views
        output[key] = output[key][index * size : (index + 1) * size]
