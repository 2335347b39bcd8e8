"""The five categories of WildBench's rows, and what each weighs in the macro score (Lin et al. 2024)."""

from __future__ import annotations

WEIGHTS = {"creative": 0.5, "planning": 1.25, "math": 1.0, "information": 0.75, "coding": 1.25}
"""Of the categories in the macro score."""

CATEGORIES = {
    **dict.fromkeys(("creative tasks", "creative writing", "editing", "brainstorming", "role playing"), "creative"),
    "others": "creative",  # as WildBench has it
    **dict.fromkeys(("planning & reasoning", "reasoning"), "planning"),
    **dict.fromkeys(("math & data analysis", "maths", "mathematics", "data analysis"), "math"),
    **dict.fromkeys(("information/advice seeking", "information seeking", "advice seeking"), "information"),
    **dict.fromkeys(("coding & debugging",), "coding"),
}
"""Names that WildBench's rows and tables use -> category."""


def category(name: str) -> str:
    """The category of a name as it stands in a row; one that is not known stays what it is.

    >>> category("Coding & Debugging"), category("Math"), category("Law")
    ('coding', 'math', 'law')
    """
    plain = " ".join(name.lower().split())
    return CATEGORIES.get(plain, plain)
