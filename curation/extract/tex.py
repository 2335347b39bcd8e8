"""Formulas of a page as TeX in its text: MathML, KaTeX, MathJax scripts, before the page is parsed.

`$...$` for a formula in a line, `$$...$$` for one that stands alone. The TeX that a page brings along comes first (the
`annotation` of MathML, `alttext`, the content of `<script type="math/tex">`); other MathML is written as TeX by its elements.
TeX that stands in the text of a page already is text, and stays as it is.
"""

from __future__ import annotations

import html as entities
import re

_FORMULA = re.compile(
    r"<(math)\b([^>]{0,2000})>|<script\b([^>]{0,200}\btype\s*=\s*[\"']?math/tex\b[^>]{0,200})>"
    r"|<span\b[^>]{0,200}\bclass\s*=\s*[\"']?(?:katex-html|MathJax_Preview)\b[^>]{0,500}>",
    re.IGNORECASE,
)
_MATH_END = re.compile(r"</math\s*>", re.IGNORECASE)
_SCRIPT_END = re.compile(r"</script\s*>", re.IGNORECASE)
_SPAN = re.compile(r"<(/?)span\b[^>]*+>", re.IGNORECASE)
_ANNOTATION = re.compile(
    r"<annotation\b[^>]{0,500}\bencoding\s*=\s*[\"']?(?:application/x-tex|tex|latex|text/x-tex)\b[^>]{0,500}>([^<]*+)</",
    re.I,
)
_ALTTEXT = re.compile(r"\balttext\s*=\s*(?:\"([^\"]*+)\"|'([^']*+)')", re.IGNORECASE)
_BLOCK = re.compile(r"display\s*=\s*[\"']?block|mode\s*=\s*[\"']?display", re.IGNORECASE)
_STYLE = re.compile(r"^\{\s*\\(?:displaystyle|textstyle)\b\s*(.*)\}$", re.DOTALL)
_PIECE = re.compile(r"<(/?)(?:\w+:)?([a-z]\w*)\b([^<>]*+)>|([^<]++)", re.IGNORECASE)
_SIGN_NAMES = (
    r"× \times · \cdot ⋅ \cdot ÷ \div ± \pm ≤ \le ≥ \ge ≠ \ne ≈ \approx ∞ \infty ∑ \sum ∏ \prod ∫ \int ∂ \partial → \to "
    r"∈ \in ∉ \notin ∪ \cup ∩ \cap ⊂ \subset ⊆ \subseteq ∀ \forall ∃ \exists ∇ \nabla … \dots"
)
_SIGNS = {sign: f"{name} " for sign, name in zip(*[iter(_SIGN_NAMES.split())] * 2, strict=True)}
_SIGNS |= {sign: f"\\{sign}" for sign in "{}%&#$"} | dict.fromkeys("\u2061\u2062\u2063\u2064", "") | {"−": "-"}
_GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
_GREEK = dict(zip(_GREEK_LETTERS, _GREEK_NAMES.split(), strict=True))
_SIGNS |= {letter: f"\\{name} " for letter, name in _GREEK.items()}
MAX_DEPTH = 100


def with_tex(html: bytes) -> bytes:
    """The page, in UTF-8, with its formulas as TeX in the text. In time linear in its bytes."""
    if not any(sign in html for sign in (b"<math", b"<MATH", b"math/tex", b"katex-html", b"MathJax_Preview")):
        return html
    text = html.decode("utf-8", "replace")
    parts: list[str] = []
    ends = _span_ends(text)
    at = 0
    for found in _FORMULA.finditer(text):
        if found.start() < at:
            continue
        parts.append(text[at : found.start()])
        is_math = found[1] is not None
        if is_math or found[3] is not None:
            end = (_MATH_END if is_math else _SCRIPT_END).search(text, found.end())
            if end is None:  # never closed: no formula from here on
                at = found.start()
                break
            inner = text[found.end() : end.start()]
            attributes = found[2] if is_math else found[3]
            tex = _tex_of_math(inner, attributes) if is_math else inner.strip()
            mark = "$$" if _BLOCK.search(attributes) else "$"
            parts.append(f"{mark}{entities.escape(tex, quote=False)}{mark}" if tex else "")
            at = end.end()
        else:
            at = ends.get(found.end(), found.end())
    parts.append(text[at:])
    return "".join(parts).encode("utf-8", "replace")


def _span_ends(text: str) -> dict[int, int]:
    """Position behind the start tag of each `<span>` to that behind its end tag."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for tag in _SPAN.finditer(text):
        if not tag[1]:
            opened.append(tag.end())
        elif opened:
            ends[opened.pop()] = tag.end()
    return ends


def _tex_of_math(inner: str, attributes: str) -> str:
    if found := _ANNOTATION.search(inner):
        tex = found[1]
    elif found := _ALTTEXT.search(attributes):
        tex = found[1] or found[2] or ""
    else:
        return _written(inner)
    tex = entities.unescape(tex).strip()
    return _STYLE.sub(r"\1", tex).strip()


def _written(inner: str) -> str:
    """MathML without a TeX of its own, by its elements."""
    stack: list[tuple[str, list[str]]] = [("mrow", [])]
    for closing, name, rest, text in _PIECE.findall(inner):
        if text:
            if text.strip():
                stack[-1][1].append(_signs(entities.unescape(text).strip(), stack[-1][0]))
        elif closing:
            if len(stack) > 1 and stack[-1][0] == name.lower():
                _close(stack)
        elif not rest.endswith("/") and len(stack) < MAX_DEPTH:
            stack.append((name.lower(), []))
    while len(stack) > 1:
        _close(stack)
    return "".join(stack[0][1]).strip()


def _close(stack: list[tuple[str, list[str]]]) -> None:
    name, parts = stack.pop()
    stack[-1][1].append(_element(name, parts))


def _signs(text: str, element: str) -> str:
    if element == "mtext":
        return f"\\text{{{text}}}"
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def _element(name: str, parts: list[str]) -> str:
    inner = "".join(parts)
    if name in ("mfrac", "mroot", "msup", "msub", "mover", "munder") and len(parts) == 2:
        first, second = parts
        return {
            "mfrac": rf"\frac{{{first}}}{{{second}}}",
            "mroot": rf"\sqrt[{second}]{{{first}}}",
            "msup": f"{_group(first)}^{{{second}}}",
            "msub": f"{_group(first)}_{{{second}}}",
            "mover": f"{_group(first)}^{{{second}}}",
            "munder": f"{_group(first)}_{{{second}}}",
        }[name]
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return f"{_group(parts[0])}_{{{parts[1]}}}^{{{parts[2]}}}"
    if name == "msqrt":
        return rf"\sqrt{{{inner}}}"
    if name == "mtd":
        return f"{inner} & "
    if name in ("mtr", "mlabeledtr"):
        return inner.removesuffix(" & ") + r" \\ "
    if name == "mtable":
        return r"\begin{matrix}" + inner.removesuffix(r" \\ ") + r"\end{matrix}"
    if name == "mi" and len(inner) > 1 and inner.isalpha():
        return rf"\{inner} " if inner in _FUNCTIONS else rf"\mathrm{{{inner}}}"
    return "" if name in ("annotation", "annotation-xml") else inner


_FUNCTION_NAMES = "arccos arcsin arctan cos cosh cot det dim exp gcd inf lim ln log max min sin sinh sup tan tanh"
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())


def _group(tex: str) -> str:
    return tex if len(tex) == 1 or (tex.startswith("\\") and tex[1:].strip().isalpha()) else f"{{{tex}}}"
