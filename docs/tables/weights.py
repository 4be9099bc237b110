"""Put the weights of a packed bundle, and what it states of them, into the bundle that is shipped.

    python docs/tables/weights.py chest_xray_rtda.zip bundles/chest_xray_rtda

Everything else of the shipped bundle stays as it is written there: version, changelog, intended use, codes.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path


def ship(packed: Path, bundle: Path) -> list[str]:
    """Copy ``models/*.pt``, ``rtda`` and the intensities of the training images; returns the files written."""
    metadata = bundle / "configs" / "metadata.json"
    content = json.loads(metadata.read_text(encoding="utf-8"))
    with zipfile.ZipFile(packed) as archive:
        stated = json.loads(archive.read(f"{bundle.name}/configs/metadata.json"))
        weights = [name for name in archive.namelist() if name.startswith(f"{bundle.name}/models/")]
        for name in weights:
            (bundle / "models").mkdir(exist_ok=True)
            (bundle / "models" / Path(name).name).write_bytes(archive.read(name))
    if intensity := stated.get("trained_on", {}).get("intensity"):
        content["trained_on"]["intensity"] = intensity
    content["rtda"] = stated["rtda"]
    metadata.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [f"models/{Path(name).name}" for name in weights] + ["configs/metadata.json"]


if __name__ == "__main__":
    packed, bundle = map(Path, sys.argv[1:])
    print("\n".join(ship(packed, bundle)))
