"""What each verb of ``rtda`` does, a module a verb (``examples`` is of evaluate); what tells a refusal from a bug."""

from __future__ import annotations

import dis
import logging
import warnings
from typing import Any

from ..delivery.bundle import BundleError


def quieten() -> None:
    """Silence what MONAI and ignite say of themselves, once imported: a command prints what concerns its user."""
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # it announces each exception, which the command tells
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)
    for name in logging.root.manager.loggerDict:
        if name.startswith("monai"):
            logging.getLogger(name).setLevel(logging.ERROR)


def made(parser: Any, name: str) -> Any:
    """What MONAI makes of an id that users write; whatever it raises there is the value's fault, told in one line.

    Raises:
        BundleError: naming the id: an unknown ``_target_``, an unknown or missing argument, a faulty expression.
    """
    try:
        return parser.get_parsed_content(name)
    except Exception as error:
        cause = root_cause(error)
        if is_refusal(cause):
            raise
        told = " ".join(str(cause).split()) or type(cause).__name__
        raise BundleError(f"{name}: cannot be made: {told}; correct the recipe or the option") from error


def root_cause(error: BaseException) -> BaseException:
    """The first cause, or the first refusal on the way to it: MONAI wraps whatever a component raises, often twice."""
    while error.__cause__ is not None and not is_refusal(error):
        error = error.__cause__
    return error


def is_refusal(error: BaseException) -> bool:
    """Whether a ``raise`` of this project's raised the error: then its message names file, field and cure.

    What Python or a library raises on a line of ours, such as "too many values to unpack", is a bug, though its type
    be the same.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(error, (ValueError, OSError, FloatingPointError)):
        return False
    ours = str(last.tb_frame.f_globals.get("__name__", "")).startswith("rtda.")
    return ours and dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
