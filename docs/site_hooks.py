"""Hooks of the site's builder."""

import re
from typing import Any

ROLE = re.compile(r":(?:class|func|meth|mod|attr):\s*(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Leave out the roles of docstrings, which Markdown does not know."""
    return ROLE.sub("", html)
