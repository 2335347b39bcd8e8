"""One key for the spellings of a URL, and different keys for different pages."""

import random

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from curation.text.urls import normalise, url_keys

SAME = [
    [
        "http://contoh.id",
        "https://CONTOH.id/",
        "http://www.contoh.id:80/#atas",
        "https://contoh.id:443",
        "http://contoh.id./",
    ],
    [
        "https://a.id/x/y",
        "https://a.id/x/y/",
        "http://a.id/x/./y",
        "http://a.id/z/../x/y",
        "https://u:p@a.id/x/y",
        " https://a.id/x/y ",
    ],
    [
        "https://a.id/p?id=1&n=2",
        "https://a.id/p?n=2&id=1",
        "https://a.id/p?utm_source=t&id=1&fbclid=Q&n=2",
        "https://a.id/p/?id=1&n=2&",
    ],
    ["https://a.id/%7Ebudi", "https://a.id/~budi", "https://a.id/%7ebudi"],
    ["https://a.id/%e0%b8%81", "https://a.id/%E0%B8%81"],
    ["https://a.id/x", "https://a.id/x;jsessionid=ABC123", "https://a.id/x?PHPSESSID=9"],
]
SAME += [
    [
        "https://a.id/%E0%B8%82%E0%B8%82",
        "https://a.id/ขข",
        "http:\\\\a.id\\ขข",
        "https:/a.id/ขข",
        "http:a.id/ขข#x",
        "\x00http://a.id/\nขข ",
    ],
    [
        "https://a.id/?q=%E0%B8%82&x=%20y",
        "https://a.id/?q=ข&x= y",
        "https://a.id?q=%e0%b8%82&amp;x=%20y",
        "http://a.id/?q=ข&#38;x=%20y",
    ],
    [
        "http://münchen.de/",
        "http://xn--mnchen-3ya.de",
        "http://MÜNCHEN.de",
        "http://XN--MNCHEN-3YA.DE",
        "http://m%C3%BCnchen.de",
        "http://ｍünchen。de",
    ],
    ["http://127.0.0.1/", "http://0x7f.1", "http://2130706433/", "http://0177.0.0.01:080/"],
    ["http://[2001:DB8:0:0::1]/", "https://[2001:db8::1]:443"],
    ["http://a.id/#!/berita/1", "http://a.id#!/berita/1/", "https://www.a.id/#!/b%65rita/1"],
    ["http://a.id/v#top", "http://a.id/v#", "http://a.id/v", "http://a.id/v#!"],
    ["http://a.id/%7Bx%7D%7C%22", 'http://a.id/{x}|"', "http://a.id/%7bx%7d%7c%22"],
    ["http://a.id/?q=it%27s", "http://a.id/?q=it's"],
    ["http://a.id/%FF%ff", "http://a.id/%ff%FF"],
    ["http://a.id:8081/", "HTTP://A.ID:08081"],
]
DIFFERENT = [
    "http://c.id/#!/a", "http://c.id/#!/b", "http://c.id/%FFa", "http://c.id/%FEa", "http://c.id/%2525", "http://c.id/%25", "http://c.id/?a=%26b",
    "http://c.id/?a=%2B", "http://c.id/?a=+",
    "http://c.id/%E0%B8%81", "http://c.id/%E0%B8%82", "http://c.id/a%3Fb", "http://c.id/a?b", "http://c.id/a%23b",
    "https://a.id/Berita", "https://a.id/berita", "https://a.id/berita?page=2", "https://a.id/berita?page=3", "https://b.a.id/berita",
    "https://a.id:8080/berita", "ftp://a.id/berita", "https://a.id/berita?q=a%26b", "https://a.id/berita?q=a&b", "https://a.id/a%2Fb",
    "https://a.id/a/b", "https://a.id/b?id=2&id=1", "https://a.id/?sid=4", "http://[::1]/x", "https://a.id/?n=1", "https://wwwa.id/",
]  # fmt: skip


@pytest.mark.parametrize("spellings", SAME, ids=lambda s: s[0])
def test_spellings_of_one_page_share_a_key(spellings):
    assert len({normalise(url) for url in spellings}) == 1
    assert len(set(url_keys(spellings).tolist())) == 1


def test_pages_that_differ_keep_their_keys():
    keys = url_keys(DIFFERENT)
    assert keys.dtype == np.uint64 and len(np.unique(keys)) == len(DIFFERENT) and (keys != 0).all()
    assert len({normalise(s[0]) for s in SAME}) == len(SAME)


def respelled(url: str, rng: random.Random) -> str:
    """Another spelling of `http://host/path?query` that every browser and server takes for the same."""
    _scheme, _, rest = url.partition("://")
    host, _, tail = rest.partition("/")
    path, mark, query = tail.partition("?")

    def letters(text: str, more: str) -> str:
        out = []
        for character in text:
            escaped = "".join(f"%{byte:02x}" if rng.random() < 0.5 else f"%{byte:02X}" for byte in character.encode())
            free = character.isalnum() or character in "-._~" + more
            out.append(escaped if free and rng.random() < 0.3 else character)
        return "".join(out)

    host = "".join(character.upper() if rng.random() < 0.3 else character for character in host)
    host = rng.choice([host, host.encode("idna").decode(), f"{host}.", f"{host}:80", f"u:p@{host}", f"www.{host}"])
    begin = rng.choice(
        ["http://", "HTTPS://".replace("S", "s" if ":80" in host else "S"), "http:/", "http:\\\\", " http://"]
    )
    path, query = letters(path, ""), letters(query, "")
    path = rng.choice([path, f"./{path}", f"x/../{path}", f"%2e/{path}"])
    query = query.replace("&", rng.choice(["&", "&amp;", "&&", "&utm_source=x&"]))
    return f"{begin}{host}/{path}{mark}{query}" + rng.choice(["", "#", "#top", "#%21"[:1]])


def test_any_spelling_of_a_page_has_its_key():
    rng = random.Random(4)
    hosts = ["a.id", "berita.contoh.co.th", "ข่าว.th", "münchen.de", "例え.jp", "x-y.com"]
    segments = ["x", "berita", "ข่าว", "tin-tức", "新闻", "a.b", "A~b", "1"]
    pages = [
        f"http://{rng.choice(hosts)}/"
        + "/".join(rng.choices(segments, k=rng.randrange(1, 4)))
        + rng.choice(["", "?q=ข", "?id=1&ê=2"])
        for _ in range(300)
    ]
    for page in pages:
        for other in (respelled(page, rng) for _ in range(8)):
            assert normalise(other) == normalise(page), (page, other)
            assert url_keys([page])[0] == url_keys([other])[0]
    assert len({normalise(page) for page in pages}) == len(set(pages))


def test_no_url_raises_and_work_is_linear():
    rng = random.Random(6)
    pieces = [
        "http://",
        "%",
        "%E0",
        "%e0%b8",
        "&amp;",
        "&#",
        "xn--",
        "..",
        "/",
        "\\",
        "[",
        "]",
        ":",
        "@",
        "#!",
        "?",
        "ข",
        "\ud800",
        "\x00",
        "0x",
        ".",
    ]
    for _ in range(3000):
        url = "".join(rng.choices(pieces, k=rng.randrange(1, 12)))
        normalise(url)
        url_keys([url])
    for piece in pieces:
        normalise("http://a.id/" + piece * 200_000)
        normalise("http://" + piece * 200_000)
    normalise("http://" + "ข" * 100_000 + ".th/")


def test_equal_parameters_keep_their_order():
    assert normalise("http://a.id/b?n=0&id=2&id=1") == "http://a.id/b?id=2&id=1&n=0"
    assert len(set(url_keys(["http://a.id/b?id=2&id=1", "http://a.id/b?id=1&id=2"]).tolist())) == 2


def test_normalising_twice_changes_nothing():
    for url in [*DIFFERENT, *(url for same in SAME for url in same)]:
        assert normalise(normalise(url)) == normalise(url)


def test_the_quick_way_gives_the_keys_of_the_full_one():
    """Every spelling above, and URLs put together at random from what is plain and what is not."""
    rng = random.Random(0)
    hosts = [
        "a.id",
        "www.a.id",
        "WWW.a.id",
        "a.id.",
        "www.",
        "www.com",
        "wwwa.id",
        "a..id",
        "ก.th",
        "-a-.id",
        "a_b.id",
        "u@a.id",
    ]
    paths = [
        "",
        "/",
        "//",
        "/x",
        "/x/",
        "/x//y",
        "/./x",
        "/.x",
        "/x.html",
        "/..",
        "/a/../b",
        "/%7e",
        "/ก/ข่าว",
        "/x;jsessionid=1",
    ]
    paths += ["/汉字.html", "/a b", "/a\u3000", "/A~b", "/a'b(c)", "/x.", "/x/.", "/a\\b", "/a|b", "/\u1680"]
    queries = [
        "",
        "?",
        "?id=1",
        "?id=1&n=2",
        "?n=2&id=1",
        "?utm_source=x",
        "?FBCLID=1",
        "?a",
        "?a=",
        "?a=b/",
        "?a=%41",
        "?sid=4",
    ]
    queries += ["?phpsessid=1", "?a=1#b", "#b", "?a=1?b=2", "?ก=1", "?_ga=2", "?a=b c", "?a==b", "?=a"]
    schemes = ["http://", "https://", "HTTP://", "ftp://", "//", "", " https://", "https:/"]
    urls = [
        "".join(rng.choice(part) for part in (schemes[:2] * 4 + schemes, hosts, paths, queries)) for _ in range(20_000)
    ]
    urls += [*DIFFERENT, *(url for same in SAME for url in same), None, ""]
    slow = [xxhash.xxh3_64_intdigest(normalise(url).encode()) if url and normalise(url) else 0 for url in urls]
    assert url_keys(urls).tolist() == slow
    assert url_keys(pa.array(urls)).tolist() == slow


def test_no_url_has_no_key_and_a_broken_one_does_not_raise():
    assert url_keys([None, "", "   ", "berkas.html", "http://"]).tolist() == [0] * 5
    broken = [
        "http://[::1",
        "https://a.id:port/x",
        "https://a.id/%zz%4",
        "https://a.id/\udcff",
        "//a.id/x",
        "https://\x00",
    ]
    assert len(set(url_keys(broken).tolist())) == len(broken)
