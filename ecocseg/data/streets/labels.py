"""Label ids that the renderer draws: Cityscapes' own ids, its palette, and their 19 train ids."""

import numpy as np

EGO_VEHICLE, STATIC, RAIL_TRACK = 1, 4, 10
ROAD, SIDEWALK = 7, 8
BUILDING, WALL, FENCE = 11, 12, 13
POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 17, 19, 20
VEGETATION, TERRAIN, SKY = 21, 22, 23
PERSON, RIDER = 24, 25
CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 26, 27, 28, 31, 32, 33

# In the order of the train ids 0..18.
TRAINED = (
    (ROAD, (128, 64, 128)),
    (SIDEWALK, (244, 35, 232)),
    (BUILDING, (70, 70, 70)),
    (WALL, (102, 102, 156)),
    (FENCE, (190, 153, 153)),
    (POLE, (153, 153, 153)),
    (TRAFFIC_LIGHT, (250, 170, 30)),
    (TRAFFIC_SIGN, (220, 220, 0)),
    (VEGETATION, (107, 142, 35)),
    (TERRAIN, (152, 251, 152)),
    (SKY, (70, 130, 180)),
    (PERSON, (220, 20, 60)),
    (RIDER, (255, 0, 0)),
    (CAR, (0, 0, 142)),
    (TRUCK, (0, 0, 70)),
    (BUS, (0, 60, 100)),
    (TRAIN, (0, 80, 100)),
    (MOTORCYCLE, (0, 0, 230)),
    (BICYCLE, (119, 11, 32)),
)
_VOID_COLOURS = {STATIC: (0, 0, 0), RAIL_TRACK: (230, 150, 140)}


def train_id_table() -> np.ndarray:
    """Table uint8 [256]: Cityscapes label id -> train id 0..18, 255 where it is not trained."""
    table = np.full(256, 255, np.uint8)
    for train_id, (label_id, _) in enumerate(TRAINED):
        table[label_id] = train_id
    return table


def palette() -> bytes:
    """PNG palette (256 RGB triples) that shows each label id in Cityscapes' colour, as GTAv's."""
    colours = np.zeros((256, 3), np.uint8)
    for label_id, colour in [*TRAINED, *_VOID_COLOURS.items()]:
        colours[label_id] = colour
    return colours.tobytes()
