"""Streets: the procedural data set that the default experiments train on, in two domains.

`game` stands in for GTAv, `camera` for Cityscapes: 19 classes, both data sets' file layouts.
"""

from ecocseg.data.streets.dataset import write_dataset
from ecocseg.data.streets.scene import Scene, render_scene
from ecocseg.data.streets.style import Domain

__all__ = ["Domain", "Scene", "render_scene", "write_dataset"]
