import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# The machines that run this are shared: time says nothing about a property.
settings.register_profile("codes", deadline=None, max_examples=60)
settings.load_profile("codes")
