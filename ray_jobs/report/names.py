"""Languages in words, as curation/languages names them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[2] / "curation" / "languages"


@cache
def language(code: str) -> str:
    """
    >>> language("th"), language("xyz")
    ('Thai', 'xyz')
    """
    file = FOLDER / f"{code}.yaml"
    return str(yaml.safe_load(file.read_text("utf-8")).get("name", code)) if file.is_file() else code
