"""Label ids that the renderer draws: Cityscapes' own, with its palette and 19 train ids."""

import numpy as np

from ecocseg.data.classes import CITYSCAPES_19

EGO_VEHICLE, STATIC, RAIL_TRACK = 1, 4, 10
ROAD, SIDEWALK = 7, 8
BUILDING, WALL, FENCE = 11, 12, 13
POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 17, 19, 20
VEGETATION, TERRAIN, SKY = 21, 22, 23
PERSON, RIDER = 24, 25
CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 26, 27, 28, 31, 32, 33

_VOID_COLOURS = {STATIC: (0, 0, 0), RAIL_TRACK: (230, 150, 140)}


def train_id_table() -> np.ndarray:
    """Table uint8 [256]: Cityscapes label id -> train id 0..18, 255 where it is not trained."""
    table = np.full(256, CITYSCAPES_19.ignore, np.uint8)
    for label_id, train_id in CITYSCAPES_19.ids.items():
        table[label_id] = train_id
    return table


def palette() -> bytes:
    """PNG palette (256 RGB triples) that shows each label id in Cityscapes' colour, as GTAv's."""
    colours = np.zeros((256, 3), np.uint8)
    for label_id, colour in _VOID_COLOURS.items():
        colours[label_id] = colour
    for label_id, train_id in CITYSCAPES_19.ids.items():
        if train_id != CITYSCAPES_19.ignore:
            colours[label_id] = CITYSCAPES_19.colors[train_id]
    return colours.tobytes()
