"""How the files of each data set lie on disk: one module per layout, found by its name."""

from ecocseg.data.layouts import camvid, cityscapes, folders, gta, synthia
from ecocseg.data.layouts.base import Fault, Item, Layout, Listing, find_root

LAYOUTS: dict[str, Layout] = {
    "cityscapes": cityscapes,
    "gta": gta,
    "synthia": synthia,
    "camvid": camvid,
    "folders": folders,
}

__all__ = ["LAYOUTS", "Fault", "Item", "Layout", "Listing", "find_root"]
