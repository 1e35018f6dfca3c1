"""The module that the ranks import has to be found by its name, also in their processes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
