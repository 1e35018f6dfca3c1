"""What the bench writes: JSON with every number, a Markdown table, a plot."""

import json
import os
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from neobert.tools.report_files import markdown_table, write_report_files

OUR_RUNS, PEER_RUNS = "ours", "peers"
GEMM_FP32, GEMM_BF16 = "gemm_gflops_fp32", "gemm_gflops_bf16"
"""Names of the measured rates of matrix products in the description of the machine."""

COLUMNS = (
    "run",
    "model, tokens of a step",
    "useful tokens/s (median)",
    "slowest to fastest step",
    "× best peer",
    "peak memory, MiB",
    "MFU",
    "CPU taken by others",
)

Machine = Mapping[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    name: str
    group: str
    """:data:`OUR_RUNS`, :data:`PEER_RUNS`, or another name where a row is compared with none."""

    size: str
    """Width, depth and tokens of a step."""

    tokens_per_sec: list[float] = field(default_factory=list)
    """Useful tokens per second of each measured step."""

    peak_memory_mib: float | None = None
    gflops_per_sec: float | None = None
    """Floating-point operations that the model itself needs (padding, recomputation not counted)
    per second, in 10^9; our runs count them."""

    failed: str | None = None
    """Last words of a run that did not end well."""

    started: str = ""
    """When the run began: UTC, ISO 8601."""

    cpu_of_others: float | None = None
    """Share of the processor's time that other programs took while it ran; ``None``: not known."""

    @property
    def median(self) -> float:
        """Median of the measured steps, 0 if there are none."""
        return statistics.median(self.tokens_per_sec) if self.tokens_per_sec else 0.0

    def one_line(self) -> str:
        """For the console."""
        return f"{self.name:<36} {self.failed or f'{self.median:8,.0f} tokens/s'}"


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of processor time so far: of the whole machine, and of the runs that have ended."""

    machine: float | None
    """``None`` where the system does not tell (it is Linux's ``/proc/stat``)."""

    runs: float
    clock: float

    @classmethod
    def now(cls) -> "CpuTimes":
        stat, machine = Path("/proc/stat"), None
        if stat.is_file():
            user, nice, system, _, _, *interrupts = map(int, stat.read_text().split()[1:9])
            machine = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(machine, ended.ru_utime + ended.ru_stime, time.perf_counter())

    def share_of_others(self, before: "CpuTimes") -> float | None:
        """What programs other than our runs took of the processor since ``before``, 0 to 1."""
        if self.machine is None or before.machine is None:
            return None
        others = (self.machine - before.machine) - (self.runs - before.runs)
        capacity = (os.cpu_count() or 1) * max(self.clock - before.clock, 1e-9)
        return round(min(1.0, max(0.0, others / capacity)), 3)


def write_report(folder: Path, name: str, machine: Machine, rows: Sequence[Row]) -> None:
    """Write ``<name>.json``, ``.md`` and ``.png`` into ``folder``."""
    found = {"machine": machine, "ratios": ratios(rows), "rows": [asdict(row) for row in rows]}
    write_report_files(folder / name, markdown(machine, rows), found, chart(rows))


def read_report(path: Path) -> tuple[Machine, list[Row]]:
    """The machine and the rows of an earlier report; both empty if there is none."""
    if not path.is_file():
        return {}, []
    found = json.loads(path.read_text())
    return found["machine"], [Row(**row) for row in found["rows"]]


def with_best_rates(machine: Machine, earlier: Machine) -> Machine:
    """``machine``, its matrix rates the best of both: a limit, which a busy moment lowers."""
    known = [
        {key: rate for key in (GEMM_FP32, GEMM_BF16) if isinstance(rate := found.get(key), float)}
        for found in (machine, earlier)
    ]
    return {**machine, **{key: max(rate, known[1].get(key, 0.0)) for key, rate in known[0].items()}}


def replaced(rows: Sequence[Row], row: Row) -> list[Row]:
    """``rows`` with ``row`` in the place of the one it replaces, else at the end."""
    places = [place for place, old in enumerate(rows) if _key(old) == _key(row)]
    if not places:
        return [*rows, row]
    return [*rows[: places[0]], row, *rows[places[0] + 1 :]]


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Our fastest row against the peers: tokens/s, and memory where a step has as many tokens."""
    ours = max((row for row in rows if row.group == OUR_RUNS), key=_median, default=None)
    peers = [row for row in rows if row.group == PEER_RUNS and row.median]
    if ours is None or not ours.median or not peers:
        return {}
    best = max(peers, key=_median)
    found = {"tokens_per_sec, over the best peer": ours.median / best.median}
    dynamic = [row for row in peers if row.name.endswith("dynamic")]
    if dynamic:
        fastest = max(dynamic, key=_median)
        found["tokens_per_sec, over the best with dynamic padding"] = ours.median / fastest.median
    if ours.peak_memory_mib and best.peak_memory_mib:
        found["peak memory, of that of the best peer"] = ours.peak_memory_mib / best.peak_memory_mib
    return {key: round(value, 2) for key, value in found.items()}


def markdown(machine: Machine, rows: Sequence[Row]) -> str:
    """The machine, the table, the ratios."""
    best = max((row.median for row in rows if row.group == PEER_RUNS), default=0.0)
    peak = machine.get(GEMM_BF16 if machine.get("precision") == "bf16" else GEMM_FP32)
    assert isinstance(peak, float | int)
    lines = ["# Training speed", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
    lines += markdown_table(COLUMNS, [_cells(row, best, peak) for row in rows], text_columns=2)
    lines += ["", *(f"- {key}: {value:.2f}" for key, value in ratios(rows).items()), ""]
    return "\n".join(lines)


def chart(rows: Sequence[Row]) -> Figure:
    """Bars of useful tokens per second, ours and the peers'."""
    shown = [row for row in reversed(rows) if row.group in (OUR_RUNS, PEER_RUNS)]
    figure = Figure(figsize=(8, 0.6 + 0.38 * len(shown)), layout="constrained")
    axes = figure.subplots()
    colors = ["tab:blue" if row.group == OUR_RUNS else "tab:gray" for row in shown]
    bars = axes.barh([row.name for row in shown], [row.median for row in shown], color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.margins(x=0.12)
    axes.set_xlabel("useful tokens per second (median of the measured steps)")
    return figure


def _cells(row: Row, best: float, peak: float) -> list[str]:
    if row.failed is not None:
        return [row.name, row.size, f"failed: {row.failed}", "", "", "", "", ""]
    compared = row.group in (OUR_RUNS, PEER_RUNS) and best
    return [
        row.name,
        row.size,
        f"{row.median:,.0f}",
        f"{min(row.tokens_per_sec):,.0f} to {max(row.tokens_per_sec):,.0f}",
        f"{row.median / best:.2f}" if compared else "",
        f"{row.peak_memory_mib:,.0f}" if row.peak_memory_mib else "",
        f"{row.gflops_per_sec / peak:.1%}" if row.gflops_per_sec else "",
        f"{row.cpu_of_others:.0%}" if row.cpu_of_others is not None else "",
    ]


def _median(row: Row) -> float:
    return row.median


def _key(row: Row) -> tuple[str, str, str]:
    return row.group, row.name, row.size
