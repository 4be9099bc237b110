"""``python -m rtda.pipeline`` is ``rtda``."""

import sys

from .cli import main

sys.exit(main())
