"""Structure as Markdown, on pages written for these tests."""

import random
import time

import numpy as np
import pytest

from curation.extract import render
from curation.extract.extractor import Extractor
from curation.extract.lines import lines
from curation.extract.markdown import markdown
from curation.extract.markup import parse
from curation.extract.page import extract
from curation.extract.tex import with_tex


def read(body: str) -> str:
    html = with_tex(f"<!doctype html><html><body>{body}</body></html>".encode())
    tree = parse(html)
    found = lines(html, tree)
    return markdown(html, tree, found, np.ones(len(found.chars), np.bool_))


def test_headings_paragraphs_and_line_breaks():
    page = "<h1>Laut <i>kita</i></h1><p>Nelayan <b>pulang</b> <a href=/x>sore</a>.</p><h3>Ikan</h3><p>satu<br>dua</p>"
    assert read(page) == "# Laut kita\n\nNelayan pulang sore.\n\n### Ikan\n\nsatu\ndua"


def test_lists_in_lists():
    page = "<p>Bahan:<ul><li>beras</li><li>daun<ol><li>salam<li>pandan</ol></li><li><p>kelapa<p>tua</ul><p>Cuci."
    assert read(page) == "Bahan:\n\n- beras\n- daun\n  1. salam\n  2. pandan\n- kelapa\n  tua\n\nCuci."


def test_a_table_of_data_is_a_pipe_table():
    page = (
        "<table><tr><th>Bahan</th><th>Gram</th></tr><tr><td>beras</td><td>500</td></tr>"
        "<tr><td></td><td>a|b</td></tr></table><p>Selesai."
    )
    assert read(page) == "| Bahan | Gram |\n| --- | --- |\n| beras | 500 |\n|  | a\\|b |\n\nSelesai."


def test_a_table_that_lays_out_a_page_is_not():
    long = "Kapal nelayan pulang pada sore hari. " * 10
    page = f"<table><tr><td><h2>Laut</h2><p>{long}</td><td><p>kanan</td></tr><tr><td>a<td>b</table>"
    assert "|" not in read(page) and read(page).startswith("## Laut\n\nKapal")
    inner = "<table><tr><td>1<td>2<tr><td>3<td>4</table>"
    assert read(f"<table><tr><td>{inner}<td>x<tr><td>y<td>z</table>").startswith("| 1 | 2 |\n| --- | --- |\n| 3 | 4 |")


def test_code():
    code = "for i in x:\n    <b>print</b>(i)\n\n# &lt;ok&gt;\n"
    page = f'<p>Tulis <code>x = 1</code>:</p><pre><code class="language-python">{code}</code></pre>'
    assert read(page) == "Tulis `x = 1`:\n\n```python\nfor i in x:\n    print(i)\n\n# <ok>\n```"
    assert read("<pre>a\n```\nb</pre>") == "````\na\n```\nb\n````"


def test_quotes():
    assert read("<p>Kata dia:<blockquote><p>satu</p><ul><li>dua</ul></blockquote>") == "Kata dia:\n\n> satu\n\n> - dua"


@pytest.mark.parametrize(
    ("html", "tex"),
    [
        ("<math><mfrac><mi>a</mi><mi>b</mi></mfrac></math>", r"$\frac{a}{b}$"),
        ("<math display=block><msup><mi>x</mi><mn>2</mn></msup><mo>≤</mo><msqrt><mi>α</mi></msqrt></math>",
         r"$$x^{2}\le \sqrt{\alpha }$$"),
        ("<math><semantics><mrow><mi>a</mi></mrow><annotation encoding='application/x-tex'>a &lt; b_1</annotation>"
         "</semantics></math>", "$a < b_1$"),
        (r"<math alttext='{\displaystyle E=mc^{2}}'><mi>E</mi></math>", "$E=mc^{2}$"),
        ("<span class=katex><span class='katex-mathml'><math><annotation encoding='application/x-tex'>x^2</annotation></math>"
         "</span><span class='katex-html' aria-hidden='true'><span>x</span><span>2</span></span></span>", "$x^2$"),
        ("<span class='MathJax_Preview'>?</span><script type='math/tex; mode=display'>a<b</script>", "$$a<b$$"),
        (r"\(x_1 + y\)", r"\(x_1 + y\)"),
        ("<math><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd><mtd><mn>1</mn></mtd>"
         "</mtr></mtable></math>", r"$\begin{matrix}1 & 0 \\ 0 & 1\end{matrix}$"),
        ("<math><mi>sin</mi><mi>x</mi></math>", r"$\sin x$"),
        ("<math><msubsup><mo>∫</mo><mn>0</mn><mn>1</mn></msubsup><mtext>luas</mtext></math>", r"$\int _{0}^{1}\text{luas}$"),
    ],
)  # fmt: skip
def test_formulas_are_tex(html, tex):
    assert read(f"<p>Rumus {html} itu.</p>") == f"Rumus {tex} itu."


def test_off_by_default_and_of_our_own_readers_alone():
    body = "".join(
        f"<p>Nelayan di desa kami melaut sebelum fajar, dan pulang pada sore hari. {i}</p>" for i in range(4)
    )
    payload = f"<article><h2>Laut</h2>{body}<p><math><mi>x</mi></math></p></article>".encode()
    plain = extract({"charset": ""}, payload, "lines", 1000)["text"]
    assert "#" not in plain and "$" not in plain
    found = extract({"charset": ""}, payload, "lines", 1000, markup="markdown")["text"]
    assert found.startswith("## Laut\n\nNelayan")
    with pytest.raises(ValueError, match="cascade or lines"):
        Extractor("trafilatura", markup="markdown")
    with pytest.raises(ValueError, match="no markup 'rst'"):
        Extractor(markup="rst")


def test_the_words_are_those_of_plain_text():
    """Of random pages: marks are added, and no word is lost or made."""
    random_ = random.Random(3)
    tags = ["p", "div", "ul", "ol", "li", "table", "tr", "td", "th", "pre", "blockquote", "h1", "h4", "b", "br", "span"]
    for _ in range(300):
        pieces = []
        for i in range(random_.randrange(1, 40)):
            tag = random_.choice(tags)
            pieces.append(random_.choice([f"<{tag}>", f"</{tag}>", f"kata{i} ", f"ປາ{i} "]))
        html = "".join(pieces).encode()
        tree = parse(html)
        found = lines(html, tree)
        keep = np.array([random_.random() < 0.8 for _ in found.chars], np.bool_)
        plain = render.text(html, tree, found, keep).split()
        marked = [word.strip("`") for word in markdown(html, tree, found, keep).replace("|", " ").split()]
        marks = {"-", "#", "####", ">", "---", "```", "", *(f"{i}." for i in range(50))}
        assert [word for word in marked if word not in marks] == plain, html


UNENDED = ["<math>", "<math><mi>", "<span class=katex-html>", "<script type=math/tex>", "<math><mrow></math>"]


@pytest.mark.parametrize(
    "piece", [*UNENDED, "<math alttext='x", "<annotation encoding=tex>", "<math><annotation encoding=tex>"]
)
def test_time_is_linear_in_bytes(piece):
    """Steps of regular expressions cannot be counted: the ratio of two pages of one kind bounds the growth."""
    seconds = []
    for n in (4000, 16000):
        page = (piece * n).encode()
        begin = time.process_time()
        with_tex(page)
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 10 * seconds[0] + 0.2
