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
DIFFERENT = [
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
