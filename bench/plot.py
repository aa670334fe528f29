"""The figures of throughput as a picture: a panel for each measure, a bar for each way."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import Figure, Fingerprint, number
from bench.measures import CPU, SMALL, STREAM1, STREAMS4, TURNS, Measure
from bench.paths import FAST, NAMES
from dataplane.core.errors import OverweaveError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Matrix = Mapping[tuple[str, str], Figure]
"""Figures by the name of their way and of their measure."""

_PANELS = (STREAM1, STREAMS4, SMALL, TURNS, CPU)
_OURS, _OTHERS = "#1f6f8b", "#b8bfc6"
_SIZE = (15.0, 3.4)  # inches
_ROOM = 1.25  # right of the longest bar, for its number


def require() -> None:
    """Raise OverweaveError if nothing can be drawn, before anything is measured."""
    if find_spec("matplotlib") is None:
        raise OverweaveError("a plot needs matplotlib, which make setup installs")


def draw(every: Matrix, machine: Fingerprint, picture: Path) -> None:
    """Write the picture beside the name ``picture``, as .png and as .svg."""
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 - nothing else needs it

    canvas = Canvas(figsize=_SIZE, layout="constrained")
    for panel, measure in zip(canvas.subplots(1, len(_PANELS), sharey=True), _PANELS, strict=True):
        _draw_panel(panel, every, measure)
    canvas.suptitle(machine.summary, fontsize=7, color="#555555", y=-0.02)
    for suffix in (".png", ".svg"):
        canvas.savefig(picture.with_suffix(suffix), dpi=150, bbox_inches="tight")


def _draw_panel(panel: Axes, every: Matrix, measure: Measure) -> None:
    figures = [every[way, measure.name] for way in NAMES]
    medians = [figure.value for figure in figures]
    quartiles = [figure.spread or (figure.value, figure.value) for figure in figures]
    errors = [
        [value - low for value, (low, _) in zip(medians, quartiles, strict=True)],
        [high - value for value, (_, high) in zip(medians, quartiles, strict=True)],
    ]
    colours = [_OURS if way in FAST else _OTHERS for way in NAMES]
    panel.barh(NAMES, medians, xerr=errors, color=colours, ecolor="#333333", capsize=2)
    for line, (value, (_, high)) in enumerate(zip(medians, quartiles, strict=True)):
        panel.text(high * 1.02, line, f" {number(value)}", va="center", fontsize=8)
    panel.set_title(f"{measure.name}, {measure.unit}", fontsize=9)
    panel.set_xlim(0, _ROOM * max(high for _, high in quartiles))
    panel.invert_yaxis()
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
