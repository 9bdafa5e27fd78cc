import sys
from pathlib import Path

# Tests import the modules beside this file by bare name.
sys.path.insert(0, str(Path(__file__).parent))
