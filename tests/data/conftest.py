"""Makes `raw_trees`, the small data sets of the data tests, importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
