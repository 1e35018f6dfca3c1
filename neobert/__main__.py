"""``python -m neobert``: the command ``neobert``."""

import sys

from neobert.command import main

sys.exit(main())
