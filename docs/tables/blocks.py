"""Find the generated blocks of Markdown files and bring them up to date."""

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """Markdown files that may hold a block: README, docs, configs, benchmarks."""
    folders = ("docs", "configs", "benchmarks")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.md")]
    return [ROOT / "README.md", *sorted(found)]


def render(text: str, tables: Mapping[str, Callable[..., str]]) -> str:
    """The text of a document with every block made anew.

    Raises:
        ValueError: If a block names a table that is not there, or has no end.
    """
    if text.count("<!-- table:") != len(BLOCK.findall(text)):
        raise ValueError("expected a line '<!-- end -->' behind every '<!-- table: ... -->'")

    def made(match: re.Match[str]) -> str:
        name, *arguments = shlex.split(match[2])
        if name not in tables:
            raise ValueError(f"expected a table of {', '.join(sorted(tables))}, got '{name}'")
        return f"{match[1]}\n{tables[name](*arguments).strip()}\n\n{match[4]}"

    return BLOCK.sub(made, text)
