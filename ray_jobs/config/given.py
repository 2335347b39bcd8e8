"""Sections that a recipe may leave out."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def given(section: T | None) -> T:
    """A section that a recipe may leave out, for code that only runs where it is there (`run.graph` says when)."""
    assert section is not None, "the recipe has no such section"
    return section
