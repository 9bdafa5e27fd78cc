"""What runs cost, as the paper's Table 15."""

import pytest

from pipeline.report.formats import markdown, write_all

PAPER = "table15_training_cost"


def add(results, make, seeds=(0, 1), device="cuda", network=True, scale=1.0) -> None:
    for order, (encoding, seconds, memory, macs) in enumerate(
        (("one-hot", 36_000, 9_000, 116.64e9), ("ecoc", 39_600, 9_450, 116.72e9))
    ):
        for seed in seeds:
            run_id = f"cost-{encoding}-s{seed}"
            row = make.plan_row(
                run_id, encoding, seed, experiment="cost", order=order, layout="cost",
                title="Training cost",
                row={"label": "DAFormer", "method": "DAFormer", "encoding": encoding},
                paper={"table": PAPER, "where": {"method": "DAFormer", "encoding": encoding}},
                deviation=None,
            )  # fmt: skip
            made = make.record(
                run_id, experiment="cost", cell=encoding, seed=seed,
                timing={"seconds": scale * (seconds + 360 * seed), "peak_memory_mb": memory,
                        "attempts": 1},
                environment={"device": device, "device_name": "NVIDIA H100"},
            )  # fmt: skip
            if network:
                made["network"] = {"parameters": 85_152_339, "macs": macs, "size": [512, 512]}
            results.add(row, made)


def test_costs_stand_beside_the_papers(results, make, tables) -> None:
    add(results, make)
    (table,) = tables()
    assert [column.name for column in table.columns] == [
        "GFLOPs", "parameters (M)", "memory (MB)", "GPUs", "training time (h)",
    ]  # fmt: skip
    assert [row.kind for row in table.rows] == [
        "measured", "paper", "measured", "paper", "ratio", "ratio",
    ]  # fmt: skip
    measured = [entry.mean for entry in table.rows[2].entries]
    assert measured == pytest.approx([116.72, 85.152339, 9450, 1, 11.05])
    paper = [entry and entry.mean for entry in table.rows[3].entries]
    assert paper == [116.72, None, 12817, 1, 16.2]
    assert all(rank == 0 for row in table.rows for rank in row.ranks)


def test_ratios_are_ecoc_over_one_hot_seed_by_seed(results, make, tables) -> None:
    add(results, make)
    (table,) = tables()
    ours, paper = table.rows[-2:]
    assert (ours.label, paper.label) == (
        "DAFormer: ECOC over one-hot", "paper, Table 15: ECOC over one-hot",
    )  # fmt: skip
    ratios = [entry.mean for entry in ours.entries]
    times = (39_600 / 36_000 + 39_960 / 36_360) / 2
    assert ratios == pytest.approx([116.72 / 116.64, 1, 1.05, 1, times])
    assert paper.entries[2].mean == pytest.approx(12817 / 9807)
    assert paper.entries[1] is None


def test_numbers_have_the_decimals_of_their_column(results, make, tables) -> None:
    add(results, make)
    (table,) = tables()
    (line,) = [
        line for line in markdown(table).splitlines() if line.startswith("| DAFormer (ECOC)")
    ]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells == ["2", "116.72", "85.15", "9450 ± 0", "1", "11.1 ± 0.1"]
    (line,) = [line for line in markdown(table).splitlines() if "| DAFormer: ECOC over" in line]
    cells = [cell.strip() for cell in line.split("|")[3:-1]]
    assert cells == ["1.001", "1.000", "1.05", "1.000", "1.10"]
    for _, text in write_all(table):
        assert "116.7" in text


def test_short_runs_on_a_cpu_say_so(results, make, tables) -> None:
    add(results, make, device="cpu", scale=0.001, seeds=(0,))
    (table,) = tables()
    assert table.rows[0].entries[3].mean == 0
    assert " 0.010 † " in markdown(table)
    assert " 13.7 |" in markdown(table)
    assert any("memory is the whole process's" in note for note in table.notes)
    assert any("forward pass at 512x512" in note for note in table.notes)
    assert "Measured on: cpu, NVIDIA H100." in table.notes


def test_records_without_a_network_have_no_flops(results, make, tables) -> None:
    add(results, make, network=False)
    (table,) = tables()
    assert table.rows[0].entries[:2] == (None, None)
    assert table.rows[-2].entries[0] is None
