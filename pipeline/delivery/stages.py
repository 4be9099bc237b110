"""What stands around a foreign network so that it takes images in [0, 1] and gives logits in the list's class order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..networks import AsCalled


class Staged(nn.Sequential):
    """A network and what stands around it, at one level, where :func:`..normalisation.holding` finds its stage."""


def staged(*stages: nn.Module | None) -> nn.Module:
    """One module of those that are there; a single one stays itself, and one that was staged before is continued.

    Example:
        >>> staged(None, nn.Identity())
        Identity()
        >>> staged(staged(nn.Tanh(), nn.Identity()), nn.ReLU())
        Staged(
          (0): Tanh()
          (1): Identity()
          (2): ReLU()
        )
    """
    parts: list[nn.Module] = []
    for stage in stages:
        parts += stage if isinstance(stage, Staged) else [] if stage is None else [stage]
    return parts[0] if len(parts) == 1 else Staged(*parts)


class InRange(nn.Module):
    """Images in [0, 1] as the network wants them, in [low, high]; an affine map, so ε stays in units of [0, 1].

    Example:
        >>> InRange(0, 255)(torch.tensor([0.0, 0.5, 1.0]))
        tensor([  0.0000, 127.5000, 255.0000])
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Return images in [low, high]; exactly 0 where they were, since a normalisation may tell zeros apart."""
        v = self.low + x * (self.high - self.low)
        rounding = 2**-22 * (abs(self.low) + abs(self.high))
        return torch.where(v.abs() <= rounding, v - v.detach(), v)  # the slope stays


class Repeated(nn.Module):
    """A film of one channel on the channels that a network for colour takes; the ball stays on the film."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, channels, *spatial)."""
        return x.expand(-1, self.channels, *[-1] * (x.ndim - 2))


class InBatches(nn.Module):
    """A program of a fixed batch size, for batches of any size: the last part is filled with its own last image."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all images."""
        return torch.cat([self._filled(part) for part in x.split(self.size)])

    def _filled(self, part: Tensor) -> Tensor:
        fill = part[-1:].expand(self.size - len(part), *part.shape[1:])
        outputs: Tensor = self.network(torch.cat([part, fill]))
        return outputs[: len(part)]


class Logarithm(nn.Module):
    """Logits of a network that gives probabilities: their softmax is these probabilities.

    Example:
        >>> Logarithm()(torch.tensor([[0.25, 0.75]])).softmax(1)
        tensor([[0.2500, 0.7500]])
    """

    def forward(self, probabilities: Tensor) -> Tensor:
        """Return the logarithms, finite at 0 too."""
        return probabilities.float().clamp_min(torch.finfo(torch.float32).tiny).log()


class LogOdds(nn.Module):
    """Logits of a network that gives a probability for each label: their sigmoid is these probabilities.

    Example:
        >>> LogOdds()(torch.tensor([[0.25, 0.75]])).sigmoid()
        tensor([[0.2500, 0.7500]])
    """

    def forward(self, probabilities: Tensor) -> Tensor:
        """Return log p − log(1 − p), finite at 0 and 1 too."""
        p = probabilities.float()
        least = torch.finfo(torch.float32).tiny
        return p.clamp_min(least).log() - (1 - p).clamp_min(least).log()


class Ordered(nn.Module):
    """Outputs in another order: column i is the network's column order[i]."""

    order: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(list(order)))

    def forward(self, outputs: Tensor) -> Tensor:
        """Return (B, len(order))."""
        return outputs[:, self.order]


class Exported(AsCalled):
    """A program read from a file: float32, held away from mode changes, told apart by its file's checksum.

    A frozen TorchScript program has neither modes nor parameters: it is given the ones that an attack restores.
    """

    sha256: Tensor

    def __init__(self, program: nn.Module, sha256: bytes) -> None:
        for module in program.modules():
            if not hasattr(module, "training"):
                module.training = False
        super().__init__(program, "float32")
        self.register_buffer("sha256", torch.tensor(list(sha256), dtype=torch.uint8))


class Called(nn.Module):
    """A callable that is no module as one, told apart by the code that it comes from.

    Args:
        function: (B, C, *spatial) float32 -> (B, K), with or without a gradient.
        sha256: of that code.
    """

    sha256: Tensor

    def __init__(self, function: Callable[..., Tensor], sha256: bytes) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("sha256", torch.tensor(list(sha256), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        return self.function(x)


class WithoutGradients(nn.Module):
    """A function of NumPy arrays as a module; on the CPU, whatever device asks.

    Args:
        function: (B, C, *spatial) float32 -> (B, K).
    """

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, without a gradient."""
        return torch.as_tensor(self.function(x.detach().cpu().numpy()), device=x.device)
