"""Wrappers that fix where standardisation, precision and memory layout belong.

Annotations are evaluated here: torch.jit.script, by which MONAI exports, takes no strings for those of attributes.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from monai.networks.layers.utils import get_norm_layer
from monai.networks.utils import replace_modules
from torch import Tensor, nn

Precision = Literal["auto", "bfloat16", "float32"]


class Standardized(nn.Module):
    """A network whose first layer is (x − mean) / std, so that ε keeps its meaning in [0, 1] intensities.

    Args:
        network: (B, C, *spatial) -> logits (B, classes).
        mean: of the training images in [0, 1], one number or one a channel.
        std: likewise, > 0.

    Example:
        >>> Standardized(nn.Identity(), mean=0.5, std=0.25)(torch.ones(1, 1, 1))
        tensor([[[2.]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).reshape(-1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).reshape(-1))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std: {std} must be > 0")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of images in [0, 1]."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        logits: Tensor = self.network((x - self.mean.reshape(shape)) / self.std.reshape(shape))
        return logits


def with_norm(network: nn.Module, norm: Any) -> nn.Module:
    """The same network with every BatchNorm replaced, in place; MONAI's ResNet heeds its own ``norm`` in the stem only.

    Args:
        network: with BatchNorm layers, freshly made: what they had learned is lost.
        norm: as MONAI names normalisations, such as ``("group", {"num_groups": 8})`` or ``"instance"``.

    Raises:
        ValueError: the network has no BatchNorm.

    Example:
        >>> norm = with_norm(nn.Sequential(nn.BatchNorm2d(16)), ("group", {"num_groups": 8}))[0]
        >>> type(norm).__name__, norm.num_groups, norm.num_channels
        ('GroupNorm', 8, 16)
    """
    ranks = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
    found = {name: module for name, module in network.named_modules() if type(module) in ranks}
    if not found:
        raise ValueError("network: has no BatchNorm to replace; leave with_norm out")
    for name, module in found.items():
        channels = module.num_features
        replace_modules(network, name, get_norm_layer(norm, spatial_dims=ranks[type(module)], channels=channels))
    return network


class AsCalled(nn.Module):
    """A network as the engine and the attack both call it: one precision, one memory layout, float32 logits.

    Args:
        network: the network whose weights are trained and saved.
        precision: ``"bfloat16"`` autocast, ``"float32"``, or ``"auto"``: bfloat16 where the device computes it
        natively.
        layout: ``"contiguous"``, or ``"channels_last"`` (2-D images only).
        compile: compile the network in place; attack and step then share the compiled graph.

    Checkpoints hold the *wrapped* network's state: save ``network_def``, not this.

    Example:
        >>> AsCalled(nn.Linear(2, 2), precision="bfloat16")(torch.zeros(1, 2)).dtype
        torch.float32
    """

    def __init__(
        self,
        network: nn.Module,
        precision: Precision = "auto",
        layout: Literal["contiguous", "channels_last"] = "contiguous",
        compile: bool = False,
    ) -> None:
        super().__init__()
        if precision not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"precision: '{precision}' is unknown; choose auto, bfloat16 or float32")
        if layout not in ("contiguous", "channels_last"):
            raise ValueError(f"layout: '{layout}' is unknown; choose contiguous or channels_last")
        self.format = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
        self.network = network.to(memory_format=self.format)  # type: ignore[call-overload]
        self.precision = precision
        if compile:
            network.compile()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; held away from an exported program, which has one built in and raises."""
        with contextlib.suppress(NotImplementedError):
            super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 logits."""
        reduced = computed_in(self.precision, x.device) == "bfloat16"
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=reduced):
            logits: Tensor = self.network(x.contiguous(memory_format=self.format))
        return logits.float()


def computed_in(precision: Precision, device: torch.device) -> str:
    """``"bfloat16"`` or ``"float32"``: what a precision means on a device."""
    reduced = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return "bfloat16" if reduced else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; emulation is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases cannot tell
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
