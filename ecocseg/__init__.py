"""ECOCSeg: pseudo-label learning for semantic segmentation with error-correcting output codes.

The public names are looked up on first use, so that `import ecocseg` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecocseg.codes.codebook import Codebook
    from ecocseg.codes.decode import decode, soft_hamming_distance
    from ecocseg.codes.losses import ECOCLoss
    from ecocseg.codes.mining import hybrid_labels, mine_reliable_bits, quality_weight

__all__ = [
    "Codebook",
    "ECOCLoss",
    "decode",
    "hybrid_labels",
    "mine_reliable_bits",
    "quality_weight",
    "soft_hamming_distance",
]

_HOME = {
    "Codebook": "codebook",
    "ECOCLoss": "losses",
    "decode": "decode",
    "hybrid_labels": "mining",
    "mine_reliable_bits": "mining",
    "quality_weight": "mining",
    "soft_hamming_distance": "decode",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ecocseg' has no attribute {name!r}")
    value = getattr(import_module(f"ecocseg.codes.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
