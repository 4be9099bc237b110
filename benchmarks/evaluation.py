"""Where an evaluation spends its time, and what memory it takes as views and images become more.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--size 64] [--images 128] [--films FOLDER]

A half-width ResNet18 on random films that lie in memory, by the presets; one thread. *Model* is forward and backward
passes, those of attacks included; *views* is what makes shifted images; *rows* is writing the parts. Each row is a
process of its own, whose greatest memory is stated. With a folder, also how many films of it are loaded in a second: an
evaluation loads each once, before all its views. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.networks.nets import ResNet
from rtda.pipeline.commands.evaluating import flat_views
from rtda.pipeline.delivery.bundle import find_views
from rtda.pipeline.delivery.preprocessing import of_films
from rtda.pipeline.evidence.evaluation import Evaluation, described, named
from rtda.pipeline.networks import Standardized, with_norm
from rtda.transforms.reader import FilmReader
from torch import Tensor, nn


class Clock(nn.Module):
    """A network that adds up the time of its forward passes without a gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seconds = network, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        start = time.perf_counter()
        logits: Tensor = self.network(x)
        if not torch.is_grad_enabled():  # the others are counted with their attack
            self.seconds += time.perf_counter() - start
        return logits


class Timed:
    """A view that adds up its time, and how much of it the clock of the network has counted, too."""

    def __init__(self, view: Any, clock: Clock) -> None:
        self.inner, self.clock, self.seconds, self.twice = view, clock, 0.0, 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the view makes."""
        start, before = time.perf_counter(), self.clock.seconds
        made: Tensor = self.inner(model, x, y)
        self.seconds += time.perf_counter() - start
        self.twice += self.clock.seconds - before
        return made


def preset(name: str, size: int) -> dict[str, Any]:
    """Its views around the usual radius at that size."""
    parser = ConfigParser()
    parser.read_config(str(find_views(name)))
    parser["imports"] = ["$import dataclasses", "$import rtda.pipeline.attacks as attacks"]
    parser["radius"] = 2.0 * size / 224
    ball = {"_target_": "rtda.pipeline.balls.L2", "radius": "@radius"}
    parser["attack"] = {"_target_": "rtda.pipeline.attacks.PGD", "ball": ball}
    return named(list(flat_views(parser.get_parsed_content("evaluation_views"))))


def network() -> nn.Module:
    """That of the chest bundle, untrained."""
    torch.manual_seed(0)
    shape = {"n_input_channels": 1, "num_classes": 2, "spatial_dims": 2, "conv1_t_stride": 2}
    made = ResNet("basic", [2, 2, 2, 2], [32, 64, 128, 256], **shape)
    return Standardized(with_norm(made, ("group", {"num_groups": 8})), 0.48, 0.234).eval()


def measured(name: str, size: int, images: int, result: Any) -> None:
    """Seconds by part, and the greatest resident memory in MiB before and after."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    films = torch.rand(images, 1, size, size, generator=torch.Generator().manual_seed(0))
    items = [{"image": k, "label": k % 2, "image_id": str(k), "patient_id": str(k)} for k in range(images)]
    views, clock = preset(name, size), Clock(network())
    attacks = {view: described(views[view])["family"] == "attack" for view in views}
    timed = {view: Timed(inner, clock) for view, inner in views.items()}
    with tempfile.TemporaryDirectory() as folder:
        parts = Path(folder) / "parts"
        one = Evaluation(clock, timed, items, lambda item: item | {"image": films[item["image"]]}, {}, parts)
        one.claim()
        start = time.perf_counter()
        one.run()
        total = time.perf_counter() - start
    attacked = sum(timed[view].seconds for view in views if attacks[view])
    shifted = sum(timed[view].seconds for view in views if not attacks[view])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model = clock.seconds + attacked - sum(one.twice for one in timed.values())
    result.put(json.dumps([len(views), total, model / total, shifted / total, before, after]))


def loaded(folder: Path, size: int, count: int) -> float:
    """Films that are read and resized in a second, as bundles do it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chain = of_films(FilmReader(), (size, size)).chain
    chain({"image": str(files[0])})
    start = time.perf_counter()
    for path in files[:: max(1, len(files) // count)][:count]:
        chain({"image": str(path)})
    return min(count, len(files)) / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--films", type=Path)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| preset | views | images | images × views/s | model | views | rows, rest | memory, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("quick", "study"):
        for images in (arguments.images, 2 * arguments.images):
            result = context.Queue()
            process = context.Process(target=measured, args=(name, arguments.size, images, result))
            process.start()
            count, total, model, shifted, before, after = json.loads(result.get())
            process.join()
            cells = [name, count, images, f"{count * images / total:.0f}", f"{model:.0%}", f"{shifted:.0%}"]
            cells += [f"{1 - model - shifted:.0%}", f"{after:.0f} ({before:.0f} before)"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if arguments.films:
        print(f"\nLoading: {loaded(arguments.films, arguments.size, arguments.images):.0f} films/s")


if __name__ == "__main__":
    main()
