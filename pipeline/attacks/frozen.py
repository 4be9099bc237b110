"""A model as an attack sees it: in evaluation mode, out of DDP, and left exactly as it was found; images likewise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the model in evaluation mode with gradients enabled, then give every submodule its own mode back.

    In evaluation mode each image's gradient depends on that image alone, BatchNorm's buffers stay, dropout is off.
    DDP is unwrapped, because its hooks belong to a backward pass that an attack never makes; nothing else is. Works
    inside ``torch.no_grad`` and ``torch.inference_mode``, in which evaluators run their whole iteration.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
        >>> with frozen(model) as f:
        ...     f.training
        False
        >>> model.training
        True
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training


def plain(x: Tensor) -> Tensor:
    """A MetaTensor without its metadata: attacks compute on plain tensors.

    Example:
        >>> plain(MetaTensor(torch.ones(1), meta={"film": 1}))
        tensor([1.])
    """
    return x.as_tensor() if isinstance(x, MetaTensor) else x
