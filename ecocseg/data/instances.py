"""Label masks drawn from COCO's instance annotations.

Category ids become 1..N in the order of their numbers, 0 is background. Of overlapping instances
the smaller one is on top. Regions annotated as crowds are 255 where no instance covers them: they
hold several instances of a class and other things between them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocseg.errors import DataError

CROWD = 255


def instance_text(
    size: tuple[int, int], annotations: Sequence[Mapping[str, Any]], classes: Mapping[int, int]
) -> str:
    """The instances of one image as JSON for `draw_instances`: largest first.

    `size` is (height, width); `classes` maps category ids to 1..N. Raises DataError for a category
    that it lacks.
    """
    objects = []
    for each in sorted(annotations, key=lambda a: (-float(a.get("area", 0)), a.get("id", 0))):
        category = each["category_id"]
        if category not in classes:
            raise DataError(f"annotation {each.get('id')} has the unknown category {category}")
        objects.append([classes[category], int(each.get("iscrowd", 0)), each["segmentation"]])
    return json.dumps({"size": list(size), "objects": objects}, separators=(",", ":"))


def instances_size(text: str) -> tuple[int, int]:
    """Height and width of the label that `draw_instances` gives."""
    height, width = json.loads(text)["size"]
    return height, width


def draw_instances(text: str) -> NDArray[np.int64]:
    """The label [H,W] of an image's instances; DataError for a shape that cannot be drawn."""
    from pycocotools import mask

    content = json.loads(text)
    height, width = content["size"]
    label = np.zeros((height, width), dtype=np.int64)
    crowds = np.zeros((height, width), dtype=bool)
    for number, crowd, shape in content["objects"]:
        try:
            runs = _runs(mask, shape, height, width)
            inside = mask.decode(runs).astype(bool)
        except Exception as error:
            # pycocotools raises plain exceptions of several kinds.
            raise DataError(f"an instance cannot be drawn ({error})") from error
        if crowd:
            crowds |= inside
        else:
            label[inside] = number
    label[crowds & (label == 0)] = CROWD
    return label


def _runs(mask: Any, shape: Any, height: int, width: int) -> Any:
    """Compressed run lengths of polygons, of counted or of compressed run lengths."""
    if isinstance(shape, list):
        return mask.merge(mask.frPyObjects(shape, height, width))
    if isinstance(shape["counts"], list):
        return mask.frPyObjects(shape, height, width)
    return shape
