"""Language tags as pages, models and data sets write them, and the codes that they are here."""

from __future__ import annotations

ISO_639 = {
    **{"mya": "my", "bur": "my", "ind": "id", "jav": "jv", "jw": "jv", "khm": "km", "lao": "lo", "eng": "en"},
    **{"msa": "ms", "may": "ms", "zsm": "ms", "sun": "su", "fil": "tl", "tgl": "tl", "tha": "th", "vie": "vi"},
    **{"zho": "zh", "chi": "zh", "cmn": "zh"},
}
"""Tags of the 15 languages in three letters, and an old one in two, to their codes here."""
ALIASES = {**ISO_639, "in": "id", "vn": "vi", "cn": "zh"}


def code(hint: str) -> str:
    """The label of a declared language: `th-TH`, `tha` and `TH` give `th`, `fil` gives `tl`; empty for an empty one."""
    tag = hint.strip().lower().replace("_", "-").split("-")[0]
    return ALIASES.get(tag, tag)
