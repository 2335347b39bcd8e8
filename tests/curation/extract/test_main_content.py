"""Pages written for these tests, in every language of the recipe and of the kinds that readers of articles lose."""

import pytest

from curation.extract.lines import lines
from curation.extract.main_content import choose
from curation.extract.markup import parse
from curation.extract.page import extract
from curation.extract.render import text

PARAGRAPHS = {
    "id": "Nelayan di desa kami melaut sebelum fajar. Mereka pulang pada sore hari, dan ikannya dibagi kepada tetangga.",
    "ms": "Nelayan di kampung kami turun ke laut sebelum subuh. Mereka pulang pada waktu petang dengan hasil tangkapan.",
    "jv": "Nelayan ing desaku miyos segara sadurunge srengenge mlethek. Sore-sore padha bali nggawa iwak akeh banget.",
    "su": "Pamayang di lembur kuring indit ka laut saméméh balébat. Soréna maranéhna balik mawa lauk pikeun tatangga.",
    "tl": "Pumapalaot ang mga mangingisda bago sumikat ang araw. Umuuwi sila sa hapon, dala ang huling isda para sa lahat.",
    "ceb": "Ang mga mananagat mopalawod sa dili pa mosubang ang adlaw. Sa hapon mouli sila, dala ang kuha alang sa silingan.",
    "ilo": "Aglayag dagiti mangngalap sakbay a rumuar ti init. Agawidda iti malem, ken ibingayda ti nakalapda kadagiti kaarruba.",
    "war": "Naglalawod an mga parapangisda san-o sumirang an adlaw. Naulî hira ha kulop, dara an ira dakop para ha amyaw.",
    "vi": "Ngư dân làng tôi ra khơi trước bình minh. Buổi chiều họ trở về, chia cá cho hàng xóm và kể chuyện biển cả.",
    "th": "ชาวประมงในหมู่บ้านของเราออกทะเลก่อนรุ่งสาง ตอนเย็นพวกเขากลับมาพร้อมปลาเต็มลำเรือ แล้วแบ่งปันให้เพื่อนบ้าน",
    "lo": "ຊາວປະມົງໃນບ້ານຂອງພວກເຮົາອອກເຮືອກ່ອນຮຸ່ງແຈ້ງ ຕອນແລງພວກເຂົາກັບມາພ້ອມປາເຕັມລຳ ແລ້ວແບ່ງໃຫ້ເພື່ອນບ້ານ",
    "km": "អ្នកនេសាទនៅភូមិយើងចេញទូកមុនព្រះអាទិត្យរះ។ ពេលល្ងាចពួកគេត្រឡប់មកវិញជាមួយត្រីពេញទូក ហើយចែកឱ្យអ្នកជិតខាង។",
    "my": "ကျွန်ုပ်တို့ရွာမှ တံငါသည်များသည် နေမထွက်မီ လှေထွက်ကြသည်။ ညနေတွင် ငါးအပြည့်ဖြင့် ပြန်လာပြီး အိမ်နီးချင်းများကို ဝေငှကြသည်။",
    "zh": "我们村的渔民在黎明前出海。傍晚他们带着满舱的鱼回来，分给每一户邻居，孩子们在码头上等着他们。",
    "en": "The fishermen of our village put to sea before dawn. In the evening they come home, and share the catch with all.",
}
LINKS = "".join(
    f"<li><a href=/{i}>{word}</a></li>" for i, word in enumerate(["Home", "News", "Sport", "About us", "Contact"])
)


def read(body: str, head: str = "") -> str:
    """Text of a page by our reader."""
    html = f"<!doctype html><html><head>{head}</head><body>{body}</body></html>".encode()
    tree = parse(html)
    found = lines(html, tree)
    return text(html, tree, found, choose(tree, found)[0])


def paragraphs(lang: str = "en", n: int = 4) -> str:
    return "".join(f"<p>{PARAGRAPHS[lang]} {i}</p>" for i in range(n))


def expected(lang: str = "en", n: int = 4) -> str:
    return "\n\n".join(f"{PARAGRAPHS[lang]} {i}" for i in range(n))


@pytest.mark.parametrize("lang", PARAGRAPHS)
@pytest.mark.parametrize("site", ["semantic", "named", "plain", "table"])
def test_article_in_every_language_and_kind_of_site(lang, site):
    article = paragraphs(lang)
    teaser = f"<a href=/x>{PARAGRAPHS[lang][:50]}</a>"
    pages = {
        "semantic": f"<header><nav><ul>{LINKS}</ul></nav></header><main><article>{article}</article></main>"
        f"<aside><p>{PARAGRAPHS[lang]} aside</p></aside><footer><p>{PARAGRAPHS[lang]} footer</footer>",
        "named": f"<div id=menu><ul>{LINKS}</ul></div><div class='site-wrap'><div class=post-content>{article}"
        f"<div class=share-buttons>Share this</div></div><div class=related-posts><p>{teaser}<p>{teaser}</div>"
        f"<div id=comments><p>{PARAGRAPHS[lang]} comment</p></div></div><div class=footer>{PARAGRAPHS[lang]} footer</div>",
        "plain": f"<div><ul>{LINKS}</ul></div><div><div>{article}</div></div><div>{teaser}<br>{teaser}<br>{teaser}</div>",
        "table": f"<table><tr><td>{LINKS}</td><td>{article}</td></tr></table><center>{teaser}</center>",
    }
    assert read(pages[site]) == expected(lang)


@pytest.mark.parametrize(
    "tag", ["header", "nav", "aside", "footer", "div class=navigation", "div class=sidebar", "form"]
)
def test_a_part_that_is_never_closed_does_not_take_the_page_with_it(tag):
    assert read(f"<{tag}><ul>{LINKS}</ul>{paragraphs()}") == expected()
    assert PARAGRAPHS["en"] in read(f"<{tag}><a href=/>Home</a><main>{paragraphs()}</main>")


def test_short_texts_are_text():
    assert read("<p>a") == "a"
    assert read("plain text alone") == "plain text alone"
    assert read("<nav>Buka setiap hari</nav>") == "Buka setiap hari", "a page of nothing else"
    assert read(f"<a href=/x>{PARAGRAPHS['lo']} {PARAGRAPHS['en']}") != "", "a link that is never closed"
    assert read("<article><p>ສະບາຍດີ</p></article>") == "ສະບາຍດີ"
    assert read("<img src=x>") == ""
    assert read(f"<nav><ul>{LINKS}</ul></nav><article></article><footer><a href=/>Home</a></footer>") == "", (
        "links alone"
    )


def test_a_forum_keeps_every_post():
    author = "<div class=author><a href=/user>a user</a></div>"
    posts = "".join(
        f"<div class=post id=p{i}>{author}<div class=content>{PARAGRAPHS[lang]}</div></div>"
        for i, lang in enumerate(["th", "en", "my", "id"])
    )
    found = read(
        f"<ul class=breadcrumbs>{LINKS}</ul><div class=thread>{posts}</div><div id=footer>Powered by nothing</div>"
    )
    assert found.split("\n") == [PARAGRAPHS[lang] for lang in ["th", "en", "my", "id"]]


def test_comments_on_an_article_go_but_a_page_of_comments_stays():
    comments = "".join(f"<div class=comment><p>{PARAGRAPHS['jv']} {i}</p></div>" for i in range(3))
    assert read(f"<article>{paragraphs()}</article><section id=comments>{comments}</section>") == expected()
    assert read(f"<div id=comments>{comments}</div>").count(PARAGRAPHS["jv"]) == 3


def test_lists_tables_code_and_headings():
    body = """<article><h1>Cara memasak</h1><p>Bahan-bahan yang diperlukan untuk empat orang, semuanya segar:</p>
    <ul><li>beras</li><li>daun <b>sa</b>lam</li><li>2 butir kelapa<ul><li>tua</li></ul></li></ul>
    <table><tr><th>Bahan</th><th>Gram</th></tr><tr><td>beras</td><td>500</td></tr>
    <tr><td><p>kelapa</p></td><td>300</td></tr></table>
    <pre><code><span>for i in x:</span>
    <span>    print(i)</span>

}</code></pre><h2>Langkah</h2><p>Cuci beras sampai bersih,<br>lalu rendam selama satu jam &amp; tiriskan.</p></article>"""
    assert read(body) == (
        "Cara memasak\n\nBahan-bahan yang diperlukan untuk empat orang, semuanya segar:\n\n"
        "beras\ndaun salam\n2 butir kelapa\ntua\n\n"
        "Bahan\tGram\nberas\t500\nkelapa\t300\n\nfor i in x:\n        print(i)\n\n}\n\nLangkah\n\n"
        "Cuci beras sampai bersih,\nlalu rendam selama satu jam & tiriskan."
    )


def test_a_table_of_short_cells_is_not_empty():
    rows = "".join(f"<tr><td>{i}</td><td>ນະຄອນ {i}</td><td>{i * 7}</td></tr>" for i in range(12))
    found = read(f"<ul class=menu>{LINKS}</ul><div class=entry-content><table>{rows}</table></div><p>© 2024 Site</p>")
    assert found.split("\n")[3] == "3\tນະຄອນ 3\t21" and found.count("\n") >= 11


@pytest.mark.parametrize("lang", ["th", "lo", "km", "my", "zh"])
def test_markup_within_a_word_puts_no_space_there(lang):
    word = PARAGRAPHS[lang]
    parts = f"<b>{word[:5]}</b><span>{word[5:11]}</span><wbr>{word[11:20]}<a href=x>{word[20:24]}</a>{word[24:]}"
    assert read(f"<p>\n  {parts}\n</p>") == word


def test_white_space_is_one_space():
    assert read("<p>  satu \n\t dua&nbsp;<b> tiga</b> <i>empat</i>\n</p>") == "satu dua tiga empat"


def test_lead_before_the_body_comes_along():
    lead = "<div class=post-excerpt><p>A lead of one long sentence that says what the whole article is about, and why.</p></div>"
    byline = "<div class=byline>By A. Writer</div>"
    found = read(f"<article class=post><h1>Title</h1>{lead}{byline}<div class=post-body>{paragraphs()}</div></article>")
    assert found.startswith("A lead of one long sentence") and "Writer" not in found


def test_what_is_hidden_and_repeats_the_page_goes():
    assert read(f"<article>{paragraphs()}<div hidden>{paragraphs()}</div></article>") == expected()
    assert "hidden alone" in read("<div hidden><p>hidden alone</p></div>")


@pytest.mark.parametrize("engine", ["lines", "cascade"])
def test_same_page_same_text(engine):
    payload = f"<div class=post-content>{paragraphs('km')}</div>{paragraphs('my', 2)}".encode()
    first = extract({"charset": ""}, payload, engine, 1000)
    assert first == extract({"charset": ""}, payload, engine, 1000) and PARAGRAPHS["km"] in first["text"]


def test_what_stands_beside_an_element_with_nearly_all_of_the_text_is_the_sites_own():
    article = "".join(f"<p>{PARAGRAPHS['ms']} {i}</p>" for i in range(12))
    beside = "<div id=kanan><h3>Pautan pantas</h3><p>Bilangan pelawat hari ini ialah seribu dua ratus orang.</p></div>"
    page = f"<div id=atas>Portal rasmi daerah, mesra dan cekap</div><div id=isi><h1>Laut</h1>{article}</div>{beside}"
    assert read(page) == "Laut\n\n" + expected("ms", 12)
    half = "".join(f"<p>{PARAGRAPHS['ms']} {i}</p>" for i in range(12, 18))
    parted = f"<div><h1>Laut</h1>{article}</div><div>{half}</div>"  # two thirds and a third: both are the page's
    assert read(parted) == "Laut\n\n" + expected("ms", 18)


@pytest.mark.parametrize("box, signature", [("postprofile", "signature"), ("userinfo", "sig"), ("pls", "postsig")])
def test_who_writes_in_a_forum_is_left_out(box, signature):
    users = [
        ("orang_laut", "Ahli baharu, 12 kiriman"),
        ("pak_long", "Moderator, 4118 kiriman"),
        ("siti", "Ahli, 90 kiriman"),
    ]
    posts = "".join(
        f"<div class=post><div class={box}>{name}<br>{what}</div><div class=txt>{PARAGRAPHS['ms']} {i}</div>"
        f"<div class={signature}>Biar lambat asal selamat</div></div>"
        for i, (name, what) in enumerate(users)
    )
    found = read(f"<div id=forum><h1>Laut</h1>{posts}</div>")
    assert all(f"{PARAGRAPHS['ms']} {i}" in found for i in range(3))
    assert "kiriman" not in found and "lambat" not in found
