"""Reads DICOM files named by standard input, each in a way, in 2 GB of address space, and answers a line of JSON each.

A process of its own, because a native decoder can neither be interrupted nor survived in-process: see test_fuzz.py.
"""

import io
import json
import logging
import os
import resource
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = 2 * 2**30  # bytes; torch and MONAI take 1.2 GB of it before the first file
OPEN = {"hu_window": (40, 400), "intensity": {"range": (0, 1000)}, "polarity": "shape"}
OPEN |= {"allow_for_processing": True, "allow_rescale_type": True}  # so that most files come as far as their picture
NEIGHBOUR = "neighbour.dcm"


def answer(path: str, way: str) -> dict[str, str]:
    """What became of a file, and all that was said of it: the error with its causes, warnings, lines of a log."""
    from rtda.transforms.header import DicomError
    from rtda.transforms.reader import ImageError

    logged = io.StringIO()
    logging.basicConfig(stream=logged, force=True)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        try:
            image = WAYS[way](path)
        except (DicomError, ImageError) as error:
            said, outcome = "".join(traceback.format_exception_only(error)) + causes(error), "refused"
        except BaseException as error:
            said, outcome = "".join(traceback.format_exception(error)), "error"
        else:
            unit = image.size > 0 and 0 <= float(image.min()) <= float(image.max()) <= 1  # false for NaN
            said, outcome = "", "image" if unit else "outside [0, 1]"
    warned = "\n".join([*(str(remark.message) for remark in remarks), logged.getvalue()])
    return {"outcome": outcome, "said": said, "warned": warned}


def volume(path: str) -> Any:
    """All frames by the functions themselves."""
    from rtda.transforms import dicom
    from rtda.transforms.display import Choices

    return dicom.to_tensor(*dicom.read_stored(path), Choices(**OPEN)).numpy()


def film(path: str) -> Any:
    """One frame by the reader of the training chain, which finds the format out by itself."""
    from rtda.transforms.display import Choices
    from rtda.transforms.reader import FilmReader

    reader = FilmReader(Choices(**OPEN), hashed=lambda plain: "hash")
    return reader.get_data(reader.read(f"{path}#frame=0"))[0]


def facts(path: str) -> Any:
    """The facts of every frame, from the header alone, as for a data list: each of its type."""
    from rtda.transforms.dicom import read_facts
    from rtda.transforms.facts import NO_FACTS

    stated = read_facts(path, hashed=lambda plain: "hash")
    kinds = {key: type(fact) for key, fact in NO_FACTS.items()}
    assert all({key: type(fact) for key, fact in one.items()} == kinds for one in stated)
    return np.ones(len(stated))


def series(path: str) -> Any:
    """The file as a slice of a volume, beside the sound slice ``neighbour.dcm`` of its folder."""
    from rtda.transforms.display import Choices
    from rtda.transforms.volume import VolumeReader

    reader = VolumeReader(Choices(**OPEN))
    return reader.get_data(reader.read([path, Path(path).with_name(NEIGHBOUR)]))[0]


WAYS = {"volume": volume, "film": film, "facts": facts, "series": series}


def causes(error: BaseException) -> str:
    """The errors that a log prints above this one."""
    above = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "" if above is None else f"from {type(above).__name__}: {above}\n{causes(above)}"


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # decoders print what they like
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from rtda.transforms import reader  # noqa: F401 - takes its seconds before the first file

    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
