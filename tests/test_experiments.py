"""What an experiment file may say, and what its tables are told of a cell."""

import copy
from types import MappingProxyType

import pytest

from ecocseg.errors import ConfigError
from pipeline.config.experiment import check_experiment, load_experiment, report_of

EXPERIMENT = MappingProxyType(
    {
        "name": "pair",
        "title": "Two sources",
        "description": "Each with the classes that its papers score.",
        "layout": "per_class",
        "means": {"mIoU": None},
        "selection": "last.student",
        "mixed_protocols": True,
        "columns": "% of labels wrong",
        "reference": [
            {
                "label": "ProDA",
                "section": "gta",
                "table": "table01_uda",
                "where": {"method": "ProDA"},
            }
        ],
        "sections": {
            "gta": {"title": "GTA", "means": {"mIoU": None}, "classes": None},
            "synthia": {
                "title": "SYNTHIA",
                "means": {"mIoU16": ["road", "sky", "car"], "mIoU13": ["road", "sky"]},
                "classes": ["road", "sky", "car"],
            },
        },
        "cells": {
            "a": {"label": "DACS", "overrides": [], "section": "gta", "group": "CNN"},
            "b": {"label": "DACS", "overrides": [], "section": "synthia", "variant": "text"},
            "c": {
                "label": "Oracle",
                "overrides": [],
                "ranked": False,
                "also": [{"group": "text", "column": "oracle"}],
            },
        },
    }
)
CONFIG = MappingProxyType({"encoding": {"name": "ecoc"}})


def changed(path, value):
    """A copy of the experiment with the field at the dotted `path` set (None removes it)."""
    experiment = copy.deepcopy(dict(EXPERIMENT))
    *parents, name = path.split(".")
    node = experiment
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[name]
    else:
        node[name] = value
    return experiment


def test_a_cell_of_a_section_has_its_means_and_classes():
    check_experiment(EXPERIMENT, "here")
    shown = [report_of(EXPERIMENT, entry, CONFIG, 0, []) for entry in EXPERIMENT["cells"].values()]
    gta, synthia, outside = shown
    assert gta["section"] == {"key": "gta", "title": "GTA", "classes": None}
    assert gta["row"]["group"] == "CNN"
    assert synthia["section"]["classes"] == ["road", "sky", "car"]
    assert synthia["means"] == EXPERIMENT["sections"]["synthia"]["means"]
    assert outside["section"] is None
    assert outside["row"]["group"] is None
    assert outside["means"] == {"mIoU": None}
    assert [report["also"] for report in shown] == [[], [], [{"group": "text", "column": "oracle"}]]
    assert [report["row"]["variant"] for report in shown] == [None, "text", None]
    for report in shown:
        assert report["columns"] == "% of labels wrong"
        assert report["mixed_protocols"] is True
        assert report["reference"] == EXPERIMENT["reference"]


def test_an_experiment_that_says_nothing_of_these_has_none_of_them():
    experiment = load_experiment("streets_uda")
    report = report_of(experiment, experiment["cells"]["oracle"], CONFIG, 3, [])
    assert (report["section"], report["mixed_protocols"], report["reference"]) == (None, False, [])
    assert (report["row"]["group"], report["row"]["ranked"], report["order"]) == (None, False, 3)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("cells.a.section", "gat", r"here\.cells\.a\.section: unknown section 'gat'; .*'gta'"),
        ("cells.a.sektion", "gta", r"cells\.a\.sektion: unknown field .* mean 'section'"),
        ("cells.a.group", 3, r"cells\.a\.group: got 3, allowed is a text"),
        ("cells.a.variant", ["text"], r"cells\.a\.variant: got \['text'\], allowed is a text"),
        ("columns", 40, r"here\.columns: got 40, allowed is a text"),
        ("cells.a.label", None, r"cells\.a: the field 'label' is missing"),
        ("cells.a", "label", r"cells\.a: got 'label', allowed is a mapping"),
        ("sections", None, r"section: got 'gta', but the experiment declares no sections"),
        ("sections.gta.means", None, r"sections\.gta: the field 'means' is missing"),
        ("sections.gta.means", {}, r"sections\.gta\.means: is empty"),
        ("sections.gta.means.mIoU", "road", r"sections\.gta\.means\.mIoU: got 'road'"),
        ("sections.gta.classes", [], r"sections\.gta\.classes: got \[\]"),
        ("sections.gta.caption", "GTA", r"sections\.gta\.caption: unknown field"),
        ("means.mIoU", [1], r"here\.means\.mIoU: got \[1\]"),
        ("means.DSC", {"classes": ["sky"]}, r"means\.DSC: the field 'score' is missing"),
        ("means.DSC", {"score": "dise"}, r"means\.DSC\.score: unknown .* mean 'dice'"),
        ("means.DSC", {"score": "dice", "classes": "sky"}, r"means\.DSC: got 'sky'"),
        ("means.OA", {"score": "accuracy", "classes": ["sky"]}, r"OA\.classes: .*of all pixels"),
        ("layout", "costs", r"here\.layout: unknown layout 'costs'; did you mean 'cost'"),
        (
            "reference",
            [{"label": "x", "table": "t", "where": {}, "section": "synthya"}],
            r"reference\[0\]\.section: unknown section 'synthya'; did you mean 'synthia'",
        ),
        ("mixed_protocols", "yes", r"mixed_protocols: got 'yes', allowed is true"),
        ("reference", "ProDA", r"reference: got 'ProDA', allowed is a list"),
        ("reference", [{"label": "ProDA"}], r"reference\[0\]: the field 'table' is missing"),
        ("reference", ["ProDA"], r"reference\[0\]: got 'ProDA', allowed is a mapping"),
        ("cells.c.also", {"group": "text"}, r"cells\.c\.also: got .*allowed is a list"),
        ("cells.c.also", [{"label": "x"}], r"cells\.c\.also\[0\]\.label: unknown field"),
        ("selection", "first.student", r"selection: got 'first.student', allowed are last"),
        ("titel", "x", r"here\.titel: unknown field 'titel'; did you mean 'title'"),
        ("description", None, r"here: the field 'description' is missing"),
    ],
)
def test_what_is_wrong_is_named(path, value, message):
    with pytest.raises(ConfigError, match=message):
        check_experiment(changed(path, value), "here")
