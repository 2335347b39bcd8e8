"""Pages of 50 MB, far beyond the limit of the stage: the reader's own time stays linear, and what is text stays."""

import random
import time

import pytest

from curation.extract.page import extract, prepare

SECONDS = 10.0
N_BYTES = 50_000_000
UNITS = {
    "prose": (b"<p>Kapal berlayar pada pagi hari, lalu pulang.</p>", True),
    "one line": ("ຄໍາ ".encode(), True),
    "open tags": (b"<b><a href=x><div class='a b'>", False),
    "entities": (b"x&amp;&nbsp;", True),
    "comments": (b"<!-- x -->", False),
    "cells": (b"<table><tr><td>ikan<td>12", True),
    "unclosed scripts": (b"<script><style>", False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNITS)
def test_50_megabytes_of_one_thing(name):
    unit, has_text = UNITS[name]
    check(unit * (N_BYTES // len(unit)), has_text)


@pytest.mark.slow
def test_50_megabytes_of_random_bytes():
    check(random.Random(0).randbytes(N_BYTES), True)


def check(payload: bytes, has_text: bool) -> None:
    prepare("cascade", 1)
    begin = time.process_time()
    found = extract({"charset": "utf-8"}, payload, "lines", 10**9)
    assert time.process_time() - begin < SECONDS
    assert bool(found["text"].strip()) == has_text


@pytest.mark.parametrize("lang", ["th", "km", "zh"])
def test_broken_utf8_costs_the_broken_letters_only(lang):
    word = {"th": "ชาวประมงออกเรือก่อนรุ่งสาง", "km": "អ្នកនេសាទចេញទូកមុនព្រះអាទិត្យរះ", "zh": "渔民在黎明前出海傍晚回来"}[lang]
    payload = (
        f"<meta charset=utf-8><article><p>{word}</p><p>".encode() + word.encode()[:-1] + f"</p><p>{word}</p>".encode()
    )
    assert extract({"charset": ""}, payload, "cascade", 1000)["text"].count(word) == 2
