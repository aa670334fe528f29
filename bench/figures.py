"""Figures: what was measured, what it should be, and on which machine; as a table and as data."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from ovs_client.daemons import find_program, run

YARDSTICK = "reference: "
"""Begins the name of a figure that is the reference's, measured as the figure of the rest is."""

_TREE = Path(__file__).parent
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. ``aim`` None: it is told, not judged; else less is better, or at least.

    ``spread`` are the samples' percentiles on both sides of it, None for a single sample.
    """

    name: str
    value: float
    unit: str
    aim: float | None = None
    spread: tuple[float, float] | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Return whether the aim is met, None where there is none."""
        if self.aim is None:
            return None
        return self.value >= self.aim if self.at_least else self.value <= self.aim

    def record(self) -> dict[str, object]:
        """Return it as it is written to a file."""
        return {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit,
            "aim": None if self.aim is None else round(self.aim, 3),
            "met": self.met,
            "spread": None if self.spread is None else [round(end, 3) for end in self.spread],
        }


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The machine and the program; ``load`` is the load average of the minute before."""

    kernel: str
    open_vswitch: str
    python: str
    cpu: str
    cores: int
    load: float
    commit: str

    @property
    def summary(self) -> str:
        """Return the line below a table."""
        return (
            f"kernel {self.kernel}, Open vSwitch {self.open_vswitch}, Python {self.python},"
            f" {self.cores} x {self.cpu}, load {self.load:g}, commit {self.commit or 'unknown'}"
        )


def percentile(samples: Iterable[float], percent: float) -> float:
    """Return the smallest sample that ``percent`` of them do not exceed (nearest rank)."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("a percentile of no samples")
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def median(name: str, samples: Sequence[float], unit: str, aim: float | None = None) -> Figure:
    """Return the median of ``samples``, spread over the quartiles."""
    middle, *spread = (percentile(samples, percent) for percent in (50, 25, 75))
    return Figure(name, middle, unit, aim, (spread[0], spread[1]))


def at_least(figure: Figure, aim: float) -> Figure:
    """Return a figure that is to be ``aim`` or more."""
    return replace(figure, aim=aim, at_least=True)


def tail(name: str, samples: Sequence[float], unit: str) -> Figure:
    """Return the 99th percentile of ``samples``, spread from the 95th to the worst."""
    value, *spread = (percentile(samples, percent) for percent in (99, 95, 100))
    return Figure(name, value, unit, None, (spread[0], spread[1]))


def least_ratio(name: str, samples: Sequence[float], aim: float) -> Figure:
    """Return the lower quartile of paired ratios, which is to be ``aim`` or more.

    It is spread from the worst to the median.
    """
    value, *spread = (percentile(samples, percent) for percent in (25, 0, 50))
    return Figure(name, value, "x", aim, (spread[0], spread[1]), at_least=True)


def most_ratio(name: str, samples: Sequence[float], aim: float) -> Figure:
    """Return the upper quartile of paired ratios, which is to be ``aim`` or less.

    It is spread from the median to the worst.
    """
    value, *spread = (percentile(samples, percent) for percent in (75, 50, 100))
    return Figure(name, value, "x", aim, (spread[0], spread[1]))


def fingerprint() -> Fingerprint:
    """Return those of this machine and checkout. Raises DaemonError without Open vSwitch."""
    version = run([find_program("ovs-vswitchd"), "--version"])
    return Fingerprint(
        kernel=platform.release(),
        open_vswitch=version.splitlines()[0].rpartition(" ")[2],
        python=platform.python_version(),
        cpu=_cpu(_CPUINFO.read_text(encoding="utf-8")) or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        load=round(os.getloadavg()[0], 2),
        commit=_commit(),
    )


def document(machine: Fingerprint, figures: Iterable[Figure]) -> str:
    """Return all of it as JSON."""
    records = [figure.record() for figure in figures]
    return json.dumps({"fingerprint": asdict(machine), "figures": records}, indent=1) + "\n"


def table(figures: Sequence[Figure]) -> Table:
    """Return the figures in lines, the reference's value beside the figure it is to be held to."""
    references = {f.name.removeprefix(YARDSTICK): f for f in figures if _is_reference(f)}
    shown = Table(box=None, padding=(0, 3, 0, 0))
    for column in ("figure", "value", "spread", "reference", "aim", "met"):
        shown.add_column(column, justify="left" if column in {"figure", "met"} else "right")
    for figure in figures:
        if not _is_reference(figure):
            shown.add_row(*_row(figure, references.get(figure.name)))
    return shown


def _is_reference(figure: Figure) -> bool:
    return figure.name.startswith(YARDSTICK)


def _row(figure: Figure, reference: Figure | None) -> tuple[str, ...]:
    beside = "" if reference is None else number(reference.value)
    sign = ">=" if figure.at_least else "<="
    aim = "" if figure.aim is None else f"{sign} {number(figure.aim)}"
    spread = "" if figure.spread is None else " - ".join(map(number, figure.spread))
    met = {None: "", True: "[green]yes[/green]", False: "[red]no[/red]"}[figure.met]
    return figure.name, f"{number(figure.value)} {figure.unit}", spread, beside, aim, met


def number(value: float) -> str:
    """Return three digits that say something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _cpu(text: str) -> str:
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == "model name"), "")


def _commit() -> str:
    """Return the commit of this checkout, marked if files differ from it; empty if unknown."""
    words = ["git", "-C", str(_TREE), "describe", "--always", "--abbrev=12", "--dirty"]
    words += ["--exclude=*"]  # the commit itself, whatever tags there are
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip()
