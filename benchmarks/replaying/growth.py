"""How an answer grows: over 1 to 50 versions, and over 1 to 200 epochs; as a table and as a figure."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.replaying.lab import Clock, Prepared, Seconds, Size, prepare, same
from flor_dagster.replay.workspace import Workspace

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, GAP = 900, 340, 62, 20, 46, 48, 84


@dataclass(frozen=True)
class Point:
    """One project: how large it was, what running it again and asking it took."""

    size: int
    again: Seconds
    answer: Seconds


def over_versions(numbers: Sequence[int], size: Size, folder: Path | None = None) -> list[Point]:
    """One project with the most versions; the first ones are asked, then more of them."""
    with _project(size, max(numbers), folder) as prepared:
        prepared.project.begin()
        with Workspace.open(prepared.project.folder) as workspace:
            keys = tuple(run.key for run in workspace.runs())
        points: list[Point] = []
        for number in numbers:
            first, _ = prepared.project.ask(0, statements=("weight_norm",), runs=keys[:number])
            points.append(_told(Point(number, prepared.running(number), first), "versions"))
        same(prepared, "weight_norm")
    return points


def over_epochs(numbers: Sequence[int], steps: int, hidden: int, folder: Path | None = None) -> list[Point]:
    """One version, as many epochs as it is told."""
    points: list[Point] = []
    for number in numbers:
        place = folder / f"epochs-{number}" if folder else None
        with _project(Size(number, steps, hidden, small=True), 1, place) as prepared:
            prepared.project.begin()
            first, _ = prepared.project.ask(0, statements=("weight_norm",))
            same(prepared, "weight_norm")
            points.append(_told(Point(number, prepared.again, first), "epochs"))
    return points


@contextlib.contextmanager
def _project(size: Size, versions: int, kept: Path | None) -> Generator[Prepared]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = (kept or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["FLOR_CACHE"] = str(folder / "cache")
        yield prepare(folder, size, versions)


def _told(point: Point, label: str) -> Point:
    again, answer = point.again, point.answer
    print(
        f"{point.size:4} {label:10} again {again.cpu:8.2f} CPU s {again.wall:8.2f} s   "
        f"answer {answer.cpu:7.2f} CPU s {answer.wall:7.2f} s   {again.cpu / answer.cpu:5.1f}x CPU", flush=True,
    )  # fmt: skip
    return point


def growth(
    versions: Sequence[int], epochs: Sequence[int], steps: int, hidden: int, target: Path, folder: Path | None
) -> None:
    """Measure both ways of growing, with no worker warm at first, compare the values, and draw it.

    Args:
        versions: numbers of versions, of five epochs each.
        epochs: numbers of epochs, of one version.
        steps: of an epoch.
        hidden: units of the hidden layer.
        target: the figure.
        folder: where the trainings are kept for the next time.
    """
    with Clock() as clock:
        place = folder / "versions" if folder else None
        by_versions = over_versions(versions, Size(5, steps, hidden, small=True), place)
        by_epochs = over_epochs(epochs, steps, hidden, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(figure(by_versions, by_epochs))
    print(f"drawn into {target} after {clock.seconds.wall:.0f} s")


def figure(by_versions: Sequence[Point], by_epochs: Sequence[Point]) -> str:
    """Both as one SVG: CPU seconds over size, running again and asking."""
    half = (WIDTH - LEFT - RIGHT - GAP) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_panel(by_versions, LEFT, half, "versions of 5 epochs"),
        *_panel(by_epochs, LEFT + half + GAP, half, "epochs of one version"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(points: Sequence[Point], left: float, width: float, label: str) -> list[str]:
    top = max(p.again.cpu for p in points) * 1.08
    most = max(p.size for p in points)

    def x(size: float) -> float:
        return left + width * size / most

    def y(seconds: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * seconds / top

    parts = [
        f'<path d="M{left:.1f} {TOP} V{HEIGHT - BOTTOM} H{left + width:.1f}" fill="none" stroke="#333333"/>',
        f'<text x="{left + width / 2:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{label}</text>',
        f'<text x="{left:.1f}" y="{TOP - 26}">CPU seconds</text>',
    ]
    for step in _ticks(top):
        parts.append(f'<path d="M{left:.1f} {y(step):.1f} H{left + width:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 6:.1f}" y="{y(step) + 4:.1f}" text-anchor="end">{step:g}</text>')
    parts += [
        f'<text x="{x(p.size):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{p.size}</text>' for p in points
    ]  # fmt: skip
    for name, colour, taken in (
        ("running again", "#c2410c", [p.again for p in points]),
        ("hindsight answer", "#1d4ed8", [p.answer for p in points]),
    ):
        places = [(x(p.size), y(t.cpu)) for p, t in zip(points, taken, strict=True)]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in places]
        row = TOP - 8 if name == "running again" else TOP + 10
        parts.append(f'<text x="{left + 12:.1f}" y="{row}" fill="{colour}">{name}</text>')
    return parts


def _ticks(top: float) -> list[float]:
    step = 1.0
    while top / step > 6:
        step *= 2.5 if str(step).lstrip("0.").startswith("2") else 2
    return [step * n for n in range(int(top / step) + 1)]
