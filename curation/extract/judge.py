"""Which lines are main content, by a model that has read pages with gold texts: boosted trees over `curation.extract.features`
give each line a probability p, and those lines are kept that make the expected F1 greatest.

With w letters a line, E[F1] of a set K is about 2 sum_K(p w) / (sum_K(w) + sum(p w)); the best K are all lines from some p
on (Lewis 1995), so one sort finds it. On a page of which the model is sure this is p > 1/2, where it doubts it takes more.

`model.npy` beside this module is made by benchmarks/train_extract.py from the gold sets that docs/curation.md names.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from curation.extract.boosting import predict
from curation.extract.features import NAMES, features
from curation.extract.lines import Lines
from curation.extract.markup import Tree

MODEL = Path(__file__).with_name("model.npy")

MAX_LINES = 50_000  # 1.5 kB of memory each; a page of more is a list, and stays as it is
LITTLE = 0.06  # expected F1
AN_ARTICLE = np.log1p(300)  # letters
LEAST_PROSE = 0.3  # share of the page's prose
MANY_COMMENTS = 0.2  # share of the page's letters
ARTICLE = [NAMES.index(f"page says {name}") for name in ("article", "Article", "NewsArticle", "BlogPosting")]
AN_ARTICLE_TYPE, NEWS = ARTICLE[1], ARTICLE[2:]
COMMENTS, FORUM = NAMES.index("page called COMMENT"), NAMES.index("page called FORUM")
KEPT_LETTERS, PROSE_KEPT = NAMES.index("page kept letters"), NAMES.index("page prose kept")


@cache
def shipped() -> np.ndarray:
    """The model in the repository."""
    return np.load(MODEL)


def judge(  # noqa: PLR0917
    html: bytes,
    tree: Tree,
    lines: Lines,
    keep: np.ndarray,
    root: int,
    named: dict[str, str],
    model: np.ndarray | None = None,
) -> np.ndarray:
    """Which lines are main content. `keep` and `root`: what `choose` says; named: see `head.meta`.

    `choose` was made for articles. It is believed where the page says that it is a dated one, and on any that is called
    article where little is to be won, or where most of the rest is comments: gold texts of threads teach to keep these.
    """
    if len(keep) > MAX_LINES:
        return keep
    found = features(html, tree, lines, keep, root, named.get("og:type", ""))
    page = found[0]
    letters = page[KEPT_LETTERS] > AN_ARTICLE
    if letters and page[PROSE_KEPT] > LEAST_PROSE and _is_dated_article(html, page, named):
        return keep
    p = predict(shipped() if model is None else model, found)
    mine = best(p, lines.chars)
    if not page[ARTICLE].any():
        return mine
    gain = expected_f1(p, lines.chars, mine) - expected_f1(p, lines.chars, keep)
    return keep if gain < LITTLE or (letters and page[COMMENTS] > MANY_COMMENTS) else mine


def _is_dated_article(html: bytes, page: np.ndarray, named: dict[str, str]) -> bool:
    """By Open Graph or JSON-LD; forums call their threads so too."""
    if page[FORUM] > MANY_COMMENTS or b"DiscussionForumPosting" in html or b"QAPage" in html:
        return False
    dated = "article:published_time" in named or (page[AN_ARTICLE_TYPE] > 0 and b"datePublished" in html)
    return bool(dated or page[NEWS].any())


def best(p: np.ndarray, chars: np.ndarray) -> np.ndarray:
    """The lines of the greatest expected F1, bool [lines]. p: probabilities; chars: letters of each line."""
    keep = np.zeros(len(p), np.bool_)
    weight = chars + 0.5
    order = np.argsort(-p, kind="stable")
    gain, size = np.cumsum((p * weight)[order]), np.cumsum(weight[order])
    keep[order[: int(np.argmax(gain / (size + gain[-1]))) + 1]] = True
    return keep


def expected_f1(p: np.ndarray, chars: np.ndarray, keep: np.ndarray) -> float:
    """Of keeping these lines, about."""
    weight = chars + 0.5
    return float(2 * (p * weight)[keep].sum() / (weight[keep].sum() + (p * weight).sum()))
