"""What each verb of ``rtda`` does: one module a verb, orchestration only."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Silence what MONAI says of itself at every start, once imported: a command prints what concerns its user."""
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)
    for name in logging.root.manager.loggerDict:
        if name.startswith("monai"):
            logging.getLogger(name).setLevel(logging.ERROR)
