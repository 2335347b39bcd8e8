"""What is saved stays saved: kills between bytes, two writers, taking back, object stores."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading

import pytest

from cluster import storage
from ray_jobs.errors import UserError
from ray_jobs.inspect import judgements

URIS = ("local", "memory://inspect-annotations/run")


@pytest.fixture(params=URIS)
def uri(request, tmp_path):
    place = str(tmp_path / "run") if request.param == "local" else f"{request.param}-{tmp_path.name}"
    return judgements.file(place, "srey")


def test_the_last_line_of_a_key_holds(uri):
    assert judgements.read(uri) == {}
    for key, label in [("a", "CC"), ("b", "WL"), ("a", "NL"), ("c", "CS"), ("c", None)]:
        judgements.append(uri, {"key": key, "label": label, "note": "ភាសា\n\u2028\ud800"})
    assert {key: row["label"] for key, row in judgements.read(uri).items()} == {"b": "WL", "a": "NL"}
    assert storage.read_bytes(uri).count(b"\n") == 5  # nothing was taken out of the file


@pytest.mark.parametrize("seed", range(5))
def test_a_line_that_was_broken_off_costs_no_other(uri, seed):
    chance = random.Random(seed)
    for number in range(6):
        judgements.append(uri, {"key": f"k{number}", "label": "CC"})
    whole = storage.read_bytes(uri)
    cut = chance.randrange(1, len(whole))
    storage.write_bytes(uri, whole[:cut])
    left = judgements.read(uri)
    complete = whole[:cut].count(b"\n") + (whole[cut : cut + 1] == b"\n")
    assert list(left) == [f"k{number}" for number in range(complete)]
    judgements.append(uri, {"key": "after", "label": "WL"})
    assert judgements.read(uri) == {**left, "after": {"key": "after", "label": "WL"}}


def test_what_is_no_line_of_ours_is_passed_over(uri):
    good = json.dumps({"key": "a", "label": "CC"}).encode()
    storage.write_bytes(uri, b'[1]\n7\nnull\n{"key": 3}\n\xff\xfe\n{}\n\n' + good)
    assert list(judgements.read(uri)) == ["a"]


def test_writers_at_once_lose_nothing(uri):
    """Threads of one page, and where the disk is local also another process of the same name."""
    program = (
        "import sys; from ray_jobs.inspect import judgements\n"
        "for n in range(100): judgements.append(sys.argv[1], {'key': f'p{n}', 'label': 'CC'})"
    )
    other = subprocess.Popen([sys.executable, "-c", program, uri]) if storage.is_local(uri) else None

    def write(thread):
        for number in range(40):
            judgements.append(uri, {"key": f"{thread}-{number}", "label": "CC"})

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert other is None or other.wait() == 0
    assert len(judgements.read(uri)) == 160 + (100 if other else 0)


def test_annotators_by_name():
    for name in ("srey", "สมชาย", "José 2"):
        judgements.append(
            judgements.file("memory://inspect-names/run", judgements.name_of(name)), {"key": name, "label": "CC"}
        )
    found = judgements.everybody("memory://inspect-names/run")
    assert {name: list(rows) for name, rows in found.items()} == {n: [n] for n in ("srey", "สมชาย", "José 2")}
    for wrong in ("", "../x", ".x", "a/b", "a\\b", "a\nb", "x" * 65, "a*", "a[b]"):
        with pytest.raises(UserError, match="--as"):
            judgements.name_of(wrong)
