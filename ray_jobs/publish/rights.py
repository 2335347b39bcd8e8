"""What the licence of a document, or the page that it is from, says of handing it on.

Read from the words that sources state, so it can only warn of what is said. Silence is no permission: documents of no stated
licence are counted by themselves.
"""

from __future__ import annotations

import re

from ray_jobs.report.web import SIGNALS

NOT_STATED = "not stated"
FORBIDS = re.compile(
    r"all rights reserved|proprietary|confidential|no[\s-]?redistribut|not (?:be |for )?redistribut"
    r"|redistribution (?:is )?(?:strictly )?(?:prohibited|forbidden|not )"
    r"|(?<![a-z])nd(?![a-z])|non?[\s-]?deriv"
    r"|hak cipta dilindungi|bảo lưu mọi quyền|giữ bản quyền|สงวนลิขสิทธิ์|版权所有|版權所有|保留所有权利|保留所有權利",
    re.IGNORECASE,
)
NON_COMMERCIAL = re.compile(
    r"(?<![a-z])nc(?![a-z])|non[\s-]?commercial|not for commercial|(?:research|academic|personal)(?: use)?[\s-]only"
    r"|nonkomersial|non-komersial|phi thương mại",
    re.IGNORECASE,
)
RESERVES = ("reserves text and data mining (TDMRep)", "robots tag: noai")
"""Of the signs that a page may show (ray_jobs/report/web.py) those by which its owner says no."""


def forbids(licence: str) -> bool:
    """Whether a stated licence forbids to hand the text on as it lies in a corpus: at all, or changed (cleaned, masked, cut)."""
    return bool(FORBIDS.search(licence))


def non_commercial(licence: str) -> bool:
    return bool(NON_COMMERCIAL.search(licence))


def signs(html: bytes | None) -> list[str]:
    """What a page says of its use, by the names of `SIGNALS`."""
    return [name for name, pattern in SIGNALS.items() if pattern.search(html)] if html else []
