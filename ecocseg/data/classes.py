"""Class tables: names, colours, and which raw label value means which class.

A raw value is what a data set's label files hold; a train id is 0..N-1 (N classes) or 255 for
pixels that count nowhere. Sources: Cityscapes' label table (cityscapesScripts `labels.py`; GTA
uses the same ids), the README of SYNTHIA-RAND-CITYSCAPES, the 11 classes of CamVid as SegNet
grouped them (Badrinarayanan et al., 2017), in the order of that release's files, the devkit of
Pascal VOC, and the annotations of COCO 2017.
"""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocseg.errors import ConfigError

UNKNOWN = -1
"""What `ClassTable.lookup` holds for a raw value that the table does not know."""
LARGEST_RAW = 65535
"""Label files hold 8 or 16 bits."""


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """N classes: `names` and RGB `colors` (N each), `ids` from raw value to train id."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ids: Mapping[int, int]
    ignore: int = 255
    ignore_colors: tuple[tuple[int, int, int], ...] = ()
    """Colours of ignored pixels in label files that hold colours instead of numbers."""

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 2 <= count <= 255 or len(set(self.names)) != count:
            raise ConfigError(
                f"classes.names: got {list(self.names)}, allowed are 2 to 255 different names; "
                "name every class once, in train id order"
            )
        if len(self.colors) != count or len(set(self.colors)) != count:
            raise ConfigError(
                f"classes.colors: got {len(self.colors)} colours ({len(set(self.colors))} different"
                f") for {count} names; give one RGB triple per name, or leave the field out"
            )
        channels = [value for color in (*self.colors, *self.ignore_colors) for value in color]
        if len(channels) % 3 or not all(0 <= value <= 255 for value in channels):
            raise ConfigError("classes.colors: each colour is three whole numbers 0..255")
        for raw, train in self.ids.items():
            if not 0 <= raw <= LARGEST_RAW or not (0 <= train < count or train == self.ignore):
                raise ConfigError(
                    f"classes.ids: got {raw} -> {train}, allowed are raw values 0..{LARGEST_RAW} "
                    f"and train ids 0..{count - 1} (or a name), {self.ignore} for ignored"
                )
        missing = set(range(count)) - set(self.ids.values())
        if missing:
            named = ", ".join(self.names[index] for index in sorted(missing))
            raise ConfigError(
                f"classes.ids: no raw value stands for {named}; add one, or drop the name"
            )

    @property
    def identity(self) -> bool:
        """Whether label files hold train ids already."""
        return all(raw == train or train == self.ignore for raw, train in self.ids.items())

    @cached_property
    def lookup(self) -> NDArray[np.int16]:
        """Array [65536]: raw value -> train id, UNKNOWN where the table has none."""
        table = np.full(LARGEST_RAW + 1, UNKNOWN, dtype=np.int16)
        for raw, train in self.ids.items():
            table[raw] = train
        return table

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """Array [256,3]: train id -> RGB; ignored pixels are black."""
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: len(self.colors)] = self.colors
        return table

    def encode_colors(self, rgb: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Map colours [H,W,3] to train ids [H,W]; UNKNOWN where no class has the colour."""
        packed = pack_colors(rgb)
        known = {_packed(color): index for index, color in enumerate(self.colors)}
        known |= {_packed(color): self.ignore for color in self.ignore_colors}
        values, inverse = np.unique(packed, return_inverse=True)
        mapped = np.array([known.get(int(value), UNKNOWN) for value in values], dtype=np.int16)
        return mapped[inverse].reshape(packed.shape)


def pack_colors(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colours [H,W,3] as one number per pixel [H,W]: 0xRRGGBB."""
    wide = rgb.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _packed(color: tuple[int, int, int]) -> int:
    return (color[0] << 16) | (color[1] << 8) | color[2]


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for `count` classes without any: hues a golden angle apart, three brightnesses."""
    found: dict[tuple[int, int, int], None] = {}
    step = 0
    while len(found) < count:
        red, green, blue = colorsys.hsv_to_rgb(
            (step * 0.61803398875) % 1, 0.65, 1 - 0.2 * (step % 3)
        )
        found[round(red * 255), round(green * 255), round(blue * 255)] = None
        step += 1
    return tuple(found)


def _voc_color(number: int) -> tuple[int, int, int]:
    """Colour of a class in the devkit's palette: its bits spread over red, green and blue."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]


# name, Cityscapes label id, colour; in train id order
_CITYSCAPES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
_CITYSCAPES_VOID = dict.fromkeys((*range(7), 9, 10, 14, 15, 16, 18, 29, 30), 255)

CITYSCAPES_19 = ClassTable(
    names=tuple(name for name, _, _ in _CITYSCAPES),
    colors=tuple(color for _, _, color in _CITYSCAPES),
    ids=_CITYSCAPES_VOID | {raw: train for train, (_, raw, _) in enumerate(_CITYSCAPES)},
)
CITYSCAPES_19_TRAIN_IDS = ClassTable(
    names=CITYSCAPES_19.names,
    colors=CITYSCAPES_19.colors,
    ids={index: index for index in range(19)} | {255: 255},
)
# GTA's files also hold 34, the licence plate, which Cityscapes' files cannot hold (its id is -1).
GTA_19 = ClassTable(
    names=CITYSCAPES_19.names,
    colors=CITYSCAPES_19.colors,
    ids={**CITYSCAPES_19.ids, 34: 255},
)

# SYNTHIA's ids by Cityscapes' names; 0 void, 13 parking slot, 14 road work, 22 lane marking. No
# pixel is of terrain, truck and train, which is why 16 classes (13: without wall, fence and pole)
# are scored.
_SYNTHIA = {
    "sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7,
    "car": 8, "traffic sign": 9, "person": 10, "bicycle": 11, "motorcycle": 12,
    "traffic light": 15, "terrain": 16, "rider": 17, "truck": 18, "bus": 19, "train": 20,
    "wall": 21,
}  # fmt: skip
SYNTHIA_19 = ClassTable(
    names=CITYSCAPES_19.names,
    colors=CITYSCAPES_19.colors,
    ids=dict.fromkeys((0, 13, 14, 22), 255)
    | {raw: CITYSCAPES_19.names.index(name) for name, raw in _SYNTHIA.items()},
)

_CAMVID = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)
CAMVID_11 = ClassTable(
    names=tuple(name for name, _ in _CAMVID),
    colors=tuple(color for _, color in _CAMVID),
    ids={index: index for index in range(11)} | {11: 255, 255: 255},
)
# SegNet's grouping of CamVid's 32 names, applied to Cityscapes' labels: walls, bridges and tunnels
# are Building, all vehicles Car, low growth Tree, lights SignSymbol, motorcycles Bicyclist.
_TO_CAMVID = {
    "Sky": (23,),
    "Building": (11, 12, 15, 16),
    "Pole": (17, 18),
    "Road": (7,),
    "Pavement": (8,),
    "Tree": (21, 22),
    "SignSymbol": (19, 20),
    "Fence": (13, 14),
    "Car": (26, 27, 28, 29, 30, 31),
    "Pedestrian": (24,),
    "Bicyclist": (25, 32, 33),
}
CITYSCAPES_TO_CAMVID_11 = ClassTable(
    names=CAMVID_11.names,
    colors=CAMVID_11.colors,
    ids=dict.fromkeys(GTA_19.ids, 255)
    | {raw: CAMVID_11.names.index(name) for name, raws in _TO_CAMVID.items() for raw in raws},
)

# Pascal VOC's 20 classes in the devkit's order, its palette's colours, 255 the boundary.
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
PASCAL_21 = ClassTable(
    names=_VOC,
    colors=tuple(_voc_color(number) for number in range(len(_VOC))),
    ids={number: number for number in range(len(_VOC))} | {255: 255},
)
# COCO's 80 categories in the order of their ids; 0 is background, as in Pascal VOC.
_COCO = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
    hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
    snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
    tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple,
    sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted
    plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone,
    microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
    hair drier, toothbrush
""".replace("\n", " ")
COCO_81 = ClassTable(
    names=("background", *(" ".join(name.split()) for name in _COCO.split(","))),
    colors=((0, 0, 0), *distinct_colors(80)),
    ids={number: number for number in range(81)} | {255: 255},
)
ACDC_4 = ClassTable(
    names=("background", "right ventricle", "myocardium", "left ventricle"),
    colors=((0, 0, 0), (52, 120, 214), (236, 190, 62), (214, 72, 62)),
    ids={0: 0, 1: 1, 2: 2, 3: 3, 255: 255},
)
WHU_CD_2 = ClassTable(
    names=("unchanged", "changed"), colors=((0, 0, 0), (255, 255, 255)), ids={0: 0, 255: 1}
)

CLASS_TABLES: dict[str, ClassTable] = {
    "cityscapes19": CITYSCAPES_19,
    "cityscapes19_train_ids": CITYSCAPES_19_TRAIN_IDS,
    "gta19": GTA_19,
    "synthia19": SYNTHIA_19,
    "camvid11": CAMVID_11,
    "cityscapes_to_camvid11": CITYSCAPES_TO_CAMVID_11,
    "pascal21": PASCAL_21,
    "coco81": COCO_81,
    "acdc4": ACDC_4,
    "whu_cd2": WHU_CD_2,
}

# What each class is most easily taken for, by its name: of Cityscapes, then of CamVid.
_CONFUSABLE = {
    "road": "sidewalk", "sidewalk": "road", "building": "wall", "wall": "fence", "fence": "wall",
    "pole": "traffic sign", "traffic light": "traffic sign", "traffic sign": "pole",
    "vegetation": "terrain", "terrain": "vegetation", "sky": "building", "person": "rider",
    "rider": "person", "car": "truck", "truck": "car", "bus": "truck", "train": "bus",
    "motorcycle": "bicycle", "bicycle": "motorcycle",
    "Sky": "Building", "Building": "Tree", "Pole": "SignSymbol", "Road": "Pavement",
    "Pavement": "Road", "Tree": "Building", "SignSymbol": "Pole", "Fence": "Building",
    "Car": "Bicyclist", "Pedestrian": "Bicyclist", "Bicyclist": "Pedestrian",
}  # fmt: skip


def most_confusable(names: Sequence[str]) -> tuple[int, ...]:
    """For each of N classes the train id of another one that it is most easily taken for.

    Known for Cityscapes' and CamVid's class names; ConfigError for others.
    """
    for name in names:
        if _CONFUSABLE.get(name) not in names:
            raise ConfigError(
                f"noise.kind: got 'confusable', but for class {name!r} no other class of the data "
                "set is named as the one it is most easily taken for; allowed with the classes of "
                "Cityscapes and CamVid: take kind: uniform, or add it to _CONFUSABLE in "
                "ecocseg/data/classes.py"
            )
    return tuple(list(names).index(_CONFUSABLE[name]) for name in names)


def class_table(spec: str | Mapping[str, Any]) -> ClassTable:
    """Return the table of that name, or the one written out in a data set's own YAML.

    Written out: `names` (a list), and as wanted `colors` (RGB triples in that order), `ids` (raw
    value -> name or train id; without it raw values are train ids), `ignore` (raw value or list of
    raw values that count nowhere, default 255), `ignore_colors`. Raises ConfigError.
    """
    if isinstance(spec, str):
        if spec not in CLASS_TABLES:
            raise ConfigError(
                f"classes: got {spec!r}, allowed are {', '.join(CLASS_TABLES)}, or a mapping with "
                "names, colors, ids and ignore"
            )
        return CLASS_TABLES[spec]
    known = {"names", "colors", "ids", "ignore", "ignore_colors"}
    unknown = sorted(set(spec) - known)
    if unknown or "names" not in spec:
        wrong = f"unknown field {unknown[0]!r}" if unknown else "no field 'names'"
        raise ConfigError(f"classes: {wrong}; allowed are {', '.join(sorted(known))}")
    names = tuple(str(name) for name in spec["names"])
    colors = spec.get("colors")
    ids = spec.get("ids")
    if ids is None:
        ids = {index: index for index in range(len(names))}
    table = {_number("classes.ids", raw): _train_id(value, names) for raw, value in ids.items()}
    ignored = spec.get("ignore", 255)
    for raw in ignored if isinstance(ignored, (list, tuple)) else [ignored]:
        value = _number("classes.ignore", raw)
        if table.get(value, 255) != 255:
            raise ConfigError(
                f"classes.ignore: raw value {value} is also {names[table[value]]!r} in classes.ids "
                "(without `ids` the raw values 0..N-1 are the classes); give it one meaning"
            )
        table[value] = 255
    return ClassTable(
        names=names,
        colors=distinct_colors(len(names)) if colors is None else _colors("colors", colors),
        ids=table,
        ignore_colors=_colors("ignore_colors", spec.get("ignore_colors", ())),
    )


def _number(field: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{field}: got {value!r}, allowed are whole numbers") from None


def _train_id(value: Any, names: tuple[str, ...]) -> int:
    if isinstance(value, str) and value in names:
        return names.index(value)
    if value == "ignore":
        return 255
    return _number("classes.ids", value)


def _colors(field: str, value: Any) -> tuple[tuple[int, int, int], ...]:
    try:
        triples = tuple((int(red), int(green), int(blue)) for red, green, blue in value)
    except (TypeError, ValueError):
        raise ConfigError(f"classes.{field}: got {value!r}, allowed are [R, G, B] lists") from None
    return triples
