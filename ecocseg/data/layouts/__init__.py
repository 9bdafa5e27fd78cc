"""How the files of each data set lie on disk: one module per layout, found by its name."""

from ecocseg.data.layouts import acdc, camvid, cityscapes, coco, folders, gta, synthia, voc, whu_cd
from ecocseg.data.layouts.base import Fault, Item, Layout, Listing, find_root

LAYOUTS: dict[str, Layout] = {
    "cityscapes": cityscapes,
    "gta": gta,
    "synthia": synthia,
    "camvid": camvid,
    "voc": voc,
    "coco": coco,
    "acdc": acdc,
    "whu_cd": whu_cd,
    "folders": folders,
}

__all__ = ["LAYOUTS", "Fault", "Item", "Layout", "Listing", "find_root"]
