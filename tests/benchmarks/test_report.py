import pytest

from benchmarks.report import (
    GEMM_BF16,
    GEMM_FP32,
    OUR_RUNS,
    PEER_RUNS,
    CpuTimes,
    Row,
    markdown,
    ratios,
    read_report,
    replaced,
    with_best_rates,
    write_report,
)

MACHINE = {"precision": "fp32", GEMM_FP32: 200.0, GEMM_BF16: 10.0}
ROWS = [
    Row("packed", OUR_RUNS, "small", [90.0, 100.0, 120.0], 400.0, 150.0, started="2026-01-01"),
    Row("unpacked", OUR_RUNS, "small", [50.0], 400.0, cpu_of_others=0.25),
    Row("peer, chunk-128", PEER_RUNS, "small", [20.0, 25.0, 1.0], 800.0),
    Row("peer, dynamic", PEER_RUNS, "small", [4.0], 900.0),
    Row("peer, chunk-512", PEER_RUNS, "small", failed="exit code 1: no memory"),
    Row("wide", "MFU", "large", [1000.0], 999.0, 100.0),
]


def test_ratios_are_those_of_the_fastest_rows() -> None:
    assert ratios(ROWS) == {
        "tokens_per_sec, over the best peer": 5.0,  # 100 / 20
        "tokens_per_sec, over the best with dynamic padding": 25.0,
        "peak memory, of that of the best peer": 0.5,
    }
    assert ratios(ROWS[:2]) == ratios(ROWS[2:]) == {}


def test_the_table_has_a_line_per_run() -> None:
    lines = markdown(MACHINE, ROWS).splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines}
    assert cells["packed"][2:7] == ["100", "90 to 120", "5.00", "400", "75.0%"]
    assert cells["unpacked"][-1] == "25% |"
    assert cells["peer, chunk-512"][2].startswith("failed: exit code 1: no memory")
    assert cells["wide"][4] == ""  # another size is compared with none
    assert cells["wide"][6] == "50.0%"


def test_the_share_of_the_peak_is_that_of_the_precision_used() -> None:
    assert "| 1500.0% |" in markdown(MACHINE | {"precision": "bf16"}, ROWS)


def test_a_report_reads_back(tmp_path) -> None:
    assert read_report(tmp_path / "cpu.json") == ({}, [])
    write_report(tmp_path, "cpu", MACHINE, ROWS)
    assert read_report(tmp_path / "cpu.json") == (MACHINE, ROWS)
    assert (tmp_path / "cpu.png").stat().st_size > 1000


def test_the_machines_limit_is_the_best_rate_seen() -> None:
    assert with_best_rates(MACHINE, {}) == MACHINE
    seen = {GEMM_FP32: 210.0, GEMM_BF16: 9.0, "precision": "bf16"}
    assert with_best_rates(MACHINE, seen) == MACHINE | {GEMM_FP32: 210.0}


def test_a_row_measured_anew_takes_its_place() -> None:
    again = Row("unpacked", OUR_RUNS, "small", [60.0])
    assert replaced(ROWS, again) == [ROWS[0], again, *ROWS[2:]]
    other = Row("unpacked", OUR_RUNS, "large", [60.0])
    assert replaced(ROWS, other) == [*ROWS, other]


@pytest.mark.parametrize(
    ("machine", "runs", "share"), [(10.0, 4.0, 0.75), (4.0, 4.0, 0.0), (4.0, 5.0, 0.0)]
)
def test_what_others_took_is_what_the_runs_did_not(monkeypatch, machine, runs, share) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before, after = CpuTimes(100.0, 7.0, 50.0), CpuTimes(100.0 + machine, 7.0 + runs, 54.0)
    assert after.share_of_others(before) == share
    assert CpuTimes(None, 1.0, 1.0).share_of_others(before) is None
