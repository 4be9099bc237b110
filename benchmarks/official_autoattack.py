"""What the official AutoAttack does with two classes: docs/masking.md.

    OMP_NUM_THREADS=1 python benchmarks/official_autoattack.py CHECKOUT

CHECKOUT is a clone of https://github.com/fra31/auto-attack. A small network is trained on drawn images of 48 x 48
pixels and attacked on 64 others, ℓ2 ε = 0.7. Prints Markdown: what each version does, and how many images are right
after a custom list and after PGD-20 of this project, with the logits as they are and times 10⁴.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from typing import Any

import torch
from rtda.pipeline.attacks import PGD
from rtda.pipeline.balls import L2
from rtda.pipeline.evidence.masking import check_masking
from torch import Tensor, nn

COUNT, SIZE, EPSILON, QUERIES = 64, 48, 0.7, 3000
SCALES = (1.0, 1e4)


class Scaled(nn.Module):
    """A network with its logits times a factor: no answer changes."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.scale * self.network(x)
        return logits


def films(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of one pattern a class, in noise; and their classes."""
    pattern = torch.randn(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(count) % 2
    return (0.5 + 0.02 * pattern[y] + 0.12 * noise).clamp(0, 1), y


def trained() -> nn.Module:
    """A small convolutional network that tells the patterns apart."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * (SIZE // 2) ** 2, 2)]
    network = nn.Sequential(*layers)
    optimizer, (x, y) = torch.optim.Adam(network.parameters(), 0.002), films(512, 1)
    for _ in range(200):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    return network.eval()


def official(checkout: str, network: nn.Module, version: str, attacks: tuple[str, ...] = ()) -> str:
    """What the official attack says of the network."""
    sys.path.insert(0, checkout)
    from autoattack import AutoAttack  # type: ignore[import-not-found]

    x, y = films(COUNT, 2)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack: Any = AutoAttack(network, norm="L2", eps=EPSILON, version=version, device="cpu", seed=0)
        if attacks:
            attack.attacks_to_run, attack.square.n_queries = list(attacks), QUERIES
        try:
            made = attack.run_standard_evaluation(x, y, bs=COUNT)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return standing(network, made, y)


def standing(network: nn.Module, x: Tensor, y: Tensor) -> str:
    """Images that are answered rightly."""
    with torch.no_grad():
        right = int((network(x).argmax(1) == y).sum())
    return f"{right} of {len(y)}"


def main() -> None:
    """Print the table."""
    network, (x, y), ball = trained(), films(COUNT, 2), L2(EPSILON)
    networks = [Scaled(network, scale).eval() for scale in SCALES]
    rows: dict[str, list[str]] = {"clean": [standing(one, x, y) for one in networks]}
    for version in ("standard", "rand"):
        rows[f"AutoAttack, `{version}`"] = [official(sys.argv[1], one, version) for one in networks]
    for attacks in (("apgd-ce",), ("apgd-ce", "square")):
        rows[f"AutoAttack, custom: {', '.join(attacks)}"] = [
            official(sys.argv[1], one, "custom", attacks) for one in networks
        ]
    rows["PGD-20, ours"] = [standing(one, PGD(ball, 20)(one, x, y), y) for one in networks]
    gates = [check_masking(one, x, y, ball) for one in networks]
    rows["gradient-masking checks"] = [f"{gate.verdict}: {', '.join(gate.failed) or '–'}" for gate in gates]
    print("| right after | logits as they are | logits × 10⁴ |\n|---|---|---|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
