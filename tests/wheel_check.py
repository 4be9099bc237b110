"""Run by .ci/run with the built wheel, from a folder that holds hostile pipeline.py and transforms.py."""

import sys
from pathlib import Path

import rtda.pipeline
from rtda.pipeline.cli import main
from rtda.pipeline.delivery.bundle import INSTALLED, find_bundle, find_recipe

installed = Path(rtda.pipeline.__file__).resolve()
assert installed.is_relative_to(Path(sys.prefix).resolve()), f"{installed} is not the wheel's"
for name in ("phantom_rtda", "chest_xray_rtda"):
    bundle = find_bundle(name)
    for file in (
        "configs/train.yaml",
        "configs/inference.yaml",
        "configs/metadata.json",
        "configs/logging.conf",
        "LICENSE",
    ):
        assert (bundle.root / file).is_file(), f"{name}/{file} is not in the wheel"
for weights in ("model.pt", "standard.pt"):
    assert (find_bundle("chest_xray_rtda").root / "models" / weights).is_file(), f"{weights} is not in the wheel"
assert (INSTALLED / "metadata.schema.json").is_file()
assert (installed.parent / "delivery/deployed/app/app.py.txt").is_file()
find_recipe("rtda")

assert main(["data", "phantom", "-o", "cohort", "--films", "240"]) == 0
options = ["--dataset-dir", "cohort", "--max-epochs", "1", "--run-name", "wheel"]
assert main(["train", "phantom_rtda", "--recipe", "rtda", *options]) == 0
assert main(["evaluate", "runs/wheel"]) == 0
assert main(["report", "runs/wheel"]) == 0
assert main(["pack", "runs/wheel", "-o", "wheel.zip"]) == 0
assert main(["infer", "wheel.zip", "cohort/films", "-o", "out.csv"]) == 0
assert "lesion" in Path("out.csv").read_text()
print("1 passed, 0 failed")
