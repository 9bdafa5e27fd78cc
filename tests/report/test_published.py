import pytest

from ecocseg.errors import ConfigError
from pipeline.report import published


def test_all_fifteen_tables_are_there_and_hold_numbers() -> None:
    names = published.published_tables()
    assert [published.table_number(name) for name in names] == [f"Table {i}" for i in range(1, 16)]
    for name in names:
        rows = published.published_table(name)
        assert rows
        assert any(text.replace(".", "").isdigit() for text in rows[0].values())


def test_the_audit_finds_the_four_means_that_do_not_follow() -> None:
    found = {
        (row["benchmark"], row["method"], row["encoding"]): round(mean, 2)
        for row in published.published_table("table01_uda")
        if (mean := published.audit(row)) is not None
    }
    assert found == {
        ("gta2cityscapes", "ProDA", "one-hot"): 57.05,
        ("gta2cityscapes", "ADFormer", "one-hot"): 68.53,
        ("gta2cityscapes", "DACS", "one-hot"): 52.64,
        ("synthia2cityscapes", "CPSL", "one-hot"): 58.17,
    }
    assert all(
        published.audit(row) is None for row in published.published_table("table07_code_length")
    )


def test_long_class_names_find_the_papers_short_ones(make) -> None:
    where = {"benchmark": "gta2cityscapes", "method": "DACS", "encoding": "ecoc"}
    row = published.published_row("table01_uda", where)
    assert published.class_value(row, "traffic light") == 50.8
    assert published.class_value(row, "Traffic Sign") == 58.8
    assert published.class_value(row, "lorry") is None
    assert published.mean_value(row, make.CITYSCAPES) == 54.5
    assert published.mean_value(row, ["road", "sky"]) == pytest.approx((95.6 + 91.3) / 2)
    assert published.mean_value(row, ["road", "lorry"]) is None


def test_sixteen_classes_of_synthia_give_the_printed_mean(make) -> None:
    where = {"benchmark": "synthia2cityscapes", "method": "DACS", "encoding": "one-hot"}
    row = published.published_row("table01_uda", where)
    sixteen = [name for name in make.CITYSCAPES if name not in ("terrain", "truck", "train")]
    assert published.class_value(row, "train") is None
    assert published.mean_value(row, sixteen) == 48.3
    assert published.mean_value(row, make.CITYSCAPES) is None


def test_columns_are_found_by_name_or_by_a_single_ending() -> None:
    row = published.published_row("table09_ssl_coco", {"method": "UniMatch", "encoding": "ecoc"})
    assert published.column_value("table09_ssl_coco", row, "1/512") == 34.5
    row = published.published_row("table12_medical_acdc", {"method": "CPS"})
    assert published.column_value("table12_medical_acdc", row, "1 case") is None
    row = published.published_table("table02_ssl_pascal")[0]
    with pytest.raises(ConfigError, match=r"'1/8' fits \['resnet50_1/8', 'resnet101_1/8'\]"):
        published.column_value("table02_ssl_pascal", row, "1/8")


def test_wrong_references_say_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'table99'.*table01_uda"):
        published.published_row("table99", {})
    with pytest.raises(ConfigError, match=r"column 'methods'.*method, encoding"):
        published.published_row("table09_ssl_coco", {"methods": "UniMatch"})
    with pytest.raises(ConfigError, match=r"fits 2 rows"):
        published.published_row("table09_ssl_coco", {"method": "UniMatch"})
