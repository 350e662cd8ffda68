"""Draw one image's way through the encoder, as a schematic: python docs/figures/encoder.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

OUT = Path(__file__).parents[1] / "images/encoder.svg"
COLUMNS, ROWS = 12, 9
CELL = 0.145
COUNTS = (108, 54, 27, 108)
CENTERS = (1.15, 3.5, 5.85, 8.2, 10.45)
INK, GRAY, BLUE, ORANGE, GREEN = "#1f2937", "#6b7280", "#3b5bdb", "#e8590c", "#2b8a3e"
MIDDLE = 2.05
"""Height of the line on which the blocks stand."""
SKY = LinearSegmentedColormap.from_list("sky", ["#d8ecfb", "#8cc4ee"])


def objects(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How much a task needs a place of the scene, in [0, 1]: balloon and house, then sun, hills."""
    balloon = ((x - 3.9) / 1.75) ** 2 + ((y - 6.0) / 2.0) ** 2 < 1
    basket = (abs(x - 3.9) < 0.6) & (y > 2.7) & (y < 4.3)
    house = (abs(x - 8.6) < 1.7) & (y > 0.9) & (y < 4.4 - abs(x - 8.6))
    sun = np.hypot(x - 10.6, y - 7.6) < 0.9
    return np.maximum(1.0 * (balloon | basket | house), np.maximum(0.3 * sun, 0.2 * (y < 1.9)))


def kept(count: int) -> np.ndarray:
    """Which cells of the grid are left, (ROWS, COLUMNS), the lowest row first."""
    fine = (np.arange(8) + 0.5) / 8
    y = (np.arange(ROWS)[:, None] + fine).reshape(-1, 1)
    x = (np.arange(COLUMNS)[:, None] + fine).reshape(1, -1)
    score = objects(y, x).reshape(ROWS, 8, COLUMNS, 8).mean(axis=(1, 3))
    score += 0.05 * np.random.default_rng(4).random(score.shape)
    return score >= np.sort(score, axis=None)[-count]


def scene(ax: Axes, left: float, bottom: float, alive: np.ndarray, grid: bool) -> None:
    """The picture in cells, in which dropped ones are veiled."""
    width, height = COLUMNS * CELL, ROWS * CELL
    extent = (left, left + width, bottom, bottom + height)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * CELL, bottom + y * CELL

    frame = Rectangle((left, bottom), width, height, fc="none", ec="none")
    ax.add_patch(frame)
    ramp = np.linspace(0, 1, 64)[:, None]
    ax.imshow(ramp, cmap=SKY, extent=extent, aspect="auto", origin="lower", zorder=1)
    shapes = [
        Circle(at(10.6, 7.6), 0.75 * CELL, color="#ffd43b"),
        Ellipse(at(2.5, 0.2), 11 * CELL, 3.4 * CELL, color="#8ecf7a"),
        Ellipse(at(9.6, -0.2), 10 * CELL, 3.4 * CELL, color="#69b85a"),
        Ellipse(at(3.9, 6.0), 3.3 * CELL, 3.8 * CELL, color="#e03131"),
        Ellipse(at(3.9, 6.0), 1.3 * CELL, 3.8 * CELL, color="#ff8787"),
        Polygon([at(3.2, 4.4), at(4.6, 4.4), at(4.2, 3.6), at(3.6, 3.6)], color="#c92a2a"),
        Rectangle(at(3.5, 2.8), 0.8 * CELL, 0.6 * CELL, color="#8d5524"),
        Rectangle(at(7.3, 1.0), 2.6 * CELL, 1.9 * CELL, color="#f8f0e3"),
        Polygon([at(6.9, 2.9), at(10.3, 2.9), at(8.6, 4.4)], color="#a0522d"),
        Rectangle(at(8.1, 1.0), 0.8 * CELL, 1.2 * CELL, color="#6b4423"),
    ]
    for shape in shapes:
        shape.set_zorder(2)
        ax.add_patch(shape)
        shape.set_clip_path(frame)
    for row in range(ROWS):
        for column in range(COLUMNS):
            cell = Rectangle(at(column, row), CELL, CELL, lw=0.35 * grid, ec="white", zorder=3)
            veiled = not alive[row, column]
            cell.set_facecolor("#eef0f4" if veiled else "none")
            ax.add_patch(cell)


def box(ax: Axes, x: float, width: float, height: float, color: str, text: str) -> None:
    """A part of the model, centered on the middle line; narrow ones have upright text."""
    bottom = MIDDLE - height / 2
    style = "round,pad=0,rounding_size=0.06"
    ax.add_patch(FancyBboxPatch((x, bottom), width, height, boxstyle=style, fc=color, ec="none"))
    turned = dict(rotation=90) if width < 0.5 else {}
    font = dict(color="white", fontsize=9, ha="center", va="center")
    ax.text(x + width / 2, MIDDLE - 0.01, text, **font, **turned)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    """A straight arrow."""
    style = dict(arrowstyle="-|>", mutation_scale=10, lw=1.5, shrinkA=0, shrinkB=0)
    ax.add_patch(FancyArrowPatch(start, end, color=color, **style))


def pictures(ax: Axes) -> None:
    """What is alive at each part, above it, and what the heads predict."""
    titles = (
        "image in patches",
        "the useful half",
        "the most useful",
        "all tokens again",
        "prediction",
    )
    for center, count, title in zip(CENTERS, (*COUNTS, COUNTS[-1]), titles, strict=True):
        left = center - COLUMNS * CELL / 2
        scene(ax, left, 2.98, kept(count), grid=title != "prediction")
        ax.text(center, 4.37, title, ha="center", fontsize=9.5, color=INK, weight="bold")
        if title != "prediction":
            text = f"{count} tokens"
            ax.text(center, 2.79, text, ha="center", va="center", fontsize=8.5, color=GRAY)
    left = CENTERS[-1] - COLUMNS * CELL / 2
    for x, y, width, height, color in ((2, 2.7, 3.8, 5.4, "#1864ab"), (6.7, 0.8, 3.8, 3.8, INK)):
        corner = (left + x * CELL, 2.98 + y * CELL)
        frame = Rectangle(corner, width * CELL, height * CELL, fc="none", ec=color, lw=1.8)
        frame.set_zorder(4)
        ax.add_patch(frame)


def pipeline(ax: Axes) -> None:
    """Blocks as high as they have tokens, reducers between them, fusion, and the heads."""
    blocks = zip(
        CENTERS, COUNTS, ("blocks 1 to 4", "blocks 5 to 7", "blocks 8 to 11"), strict=False
    )
    for center, count, text in blocks:
        box(ax, center - 0.75, 1.5, 0.95 * count / COUNTS[0], BLUE, text)
    for center in CENTERS[:2]:
        box(ax, center + 1.02, 0.3, 0.95, ORANGE, "reducer")
    box(ax, CENTERS[2] + 1.02, 0.3, 0.95, GREEN, "fusion")
    box(ax, CENTERS[3] - 0.7, 1.4, 0.95, BLUE, "block 12")
    box(ax, CENTERS[4] - 0.75, 1.5, 0.95, GRAY, "neck, heads")
    for center in CENTERS[:3]:
        arrow(ax, (center + 0.77, MIDDLE), (center + 1.0, MIDDLE), INK)
        arrow(ax, (center + 1.34, MIDDLE), (center + 1.58, MIDDLE), INK)
    arrow(ax, (CENTERS[3] + 0.72, MIDDLE), (CENTERS[4] - 0.77, MIDDLE), INK)


def tray(ax: Axes) -> None:
    """Dropped tokens, which wait for the fusion."""
    low, high = 0.42, 0.98
    left, right = CENTERS[0] + 0.7, CENTERS[2] + 1.55
    style = "round,pad=0,rounding_size=0.08"
    area = FancyBboxPatch((left, low), right - left, high - low, boxstyle=style, fc="#f1f3f5")
    area.set_edgecolor("#ced4da")
    ax.add_patch(area)
    for center, count in zip(CENTERS[:2], (54, 27), strict=True):
        x = center + 1.17
        for i in range(count):
            row, column = i % 3, i // 3
            place = (x - 0.31 + 0.105 * column + 0.14, low + 0.1 + 0.13 * row)
            ax.add_patch(Rectangle(place, 0.085, 0.105, fc="#adb5bd", ec="none"))
        arrow(ax, (x, MIDDLE - 0.5), (x, high + 0.02), ORANGE)
        ax.text(x + 0.08, 1.22, f"{count} dropped", fontsize=8.5, color=ORANGE, va="center")
    x = CENTERS[2] + 1.17
    arrow(ax, (x, high + 0.02), (x, MIDDLE - 0.5), GREEN)
    ax.text(x + 0.08, 1.22, "81 restored", fontsize=8.5, color=GREEN, va="center")
    text = "dropped tokens keep the features they had and wait for the fusion"
    ax.text((left + right) / 2, 0.2, text, ha="center", va="center", fontsize=8.5, color=GRAY)


def main() -> None:
    """Draw and write the figure."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "svg.hashsalt": "encoder"})
    figure, ax = plt.subplots(figsize=(11.6, 4.6))
    for part in (pictures, pipeline, tray):
        part(ax)
    ax.set(xlim=(0, 11.6), ylim=(0, 4.6), aspect="equal")
    ax.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    figure.savefig(OUT, facecolor="white", metadata={"Date": None})
    print(f"{OUT} written")


if __name__ == "__main__":
    main()
