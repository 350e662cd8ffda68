"""Code blocks of the documents."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```(\w+)\n(.+?)^\1```", re.DOTALL | re.MULTILINE)


def snippets(file: str, language: str) -> list[str]:
    """Blocks of one language in a document, in order, without indentation."""
    found = FENCE.findall((ROOT / file).read_text())
    return [textwrap.dedent(code) for _, of, code in found if of == language]


def snippet(file: str, language: str, text: str) -> str:
    """The only block that holds a text."""
    (code,) = (code for code in snippets(file, language) if text in code)
    return code
