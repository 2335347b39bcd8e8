"""The judge, against a local server that answers, fails, talks nonsense, or only looks at the position."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from train.generation import judge, win_rate
from train.generation.judge import GIVE_UP, Judge, Judgement, compare

LANGS = ("id", "lo", "th")


@pytest.fixture
def server():
    """A chat-completions server. `behave(n, text) -> (status, headers, body)`: n counts the requests of that text from 1."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 64
        requests, seen, most_at_once, now = [], Counter(), 0, 0
        lock = threading.Lock()
        behave = staticmethod(lambda n, text: say("[[A=B]]"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            with found.lock:
                found.requests.append((self.path, dict(self.headers), body))
                found.seen[text] += 1
                n = found.seen[text]
                found.now += 1
                found.most_at_once = max(found.most_at_once, found.now)
            status, headers, reply = found.behave(n, text)
            with found.lock:
                found.now -= 1
            if status is None:  # the connection breaks
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    found = Server(("127.0.0.1", 0), Handler)
    found.requests, found.seen = [], Counter()
    thread = threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def say(text):
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def rows(n=24, answer="sebuah jawaban", baseline="jawaban lain"):
    return [
        {
            "id": f"p{i}",
            "lang": LANGS[i % 3],
            "prompt": [{"role": "user", "content": f"pertanyaan {i}?"}],
            "answer": f"{answer} {i}",
            "baseline": f"{baseline} {i}",
        }
        for i in range(n)
    ]


def asked(server, **settings):
    return Judge(f"http://127.0.0.1:{server.server_port}/v1", "a-judge", **{"pause_seconds": 0.01, **settings})


def prefers(word):
    """A judge that reads: the answer with `word` in it is much better."""
    return lambda n, text: say(
        "Because.\n[[A>>B]]\n" if word in text.split("# Answer B")[0].split("# Answer A")[1] else "So.\n\n [[B>>A]] "
    )


def test_a_judge_that_reads_is_heard_whatever_the_order(server, tmp_path):
    server.behave = prefers("sebuah")
    assert compare(asked(server), rows(), str(tmp_path)) == [Judgement(1.0)] * 24
    swapped = [{**row, "answer": row["baseline"], "baseline": row["answer"]} for row in rows()]
    assert compare(asked(server), swapped, str(tmp_path)) == [Judgement(-1.0)] * 24


@pytest.mark.parametrize("mark", ["[[A>>B]]", "[[A>B]]", "[[B>A]]", "[[B>>A]]"])
def test_a_judge_that_only_sees_the_position_gives_one_half(mark, server, tmp_path):
    server.behave = lambda n, text: say(mark)
    found = [j.verdict for j in compare(asked(server), rows(), str(tmp_path))]
    assert win_rate.outcomes(found).mean() == 0.5
    for lang in LANGS:
        assert sum(v for v, row in zip(found, rows(), strict=True) if row["lang"] == lang) == 0
    assert set(found) == {judge.VERDICTS[mark], -judge.VERDICTS[mark]}


def test_a_judge_is_told_of_an_answer_that_was_cut_off():
    row = {"prompt": [{"role": "user", "content": "x"}], "answer": "one", "baseline": "two", "finished": False}
    shown = judge.messages(row, True)[1]["content"]
    assert f"<A>\none\n{judge.CUT_OFF}\n</A>" in shown and "<B>\ntwo\n</B>" in shown
    shown = judge.messages({**row, "finished": True, "baseline_finished": False}, False)[1]["content"]
    assert f"<A>\ntwo\n{judge.CUT_OFF}\n</A>" in shown and "<B>\none\n</B>" in shown


def test_the_order_is_decided_by_the_ids_not_by_the_places(server):
    first = dict(zip((row["id"] for row in rows()), judge.order(rows()), strict=True))
    again = dict(zip((row["id"] for row in rows()[::-1]), judge.order(rows()[::-1]), strict=True))
    assert first == again
    assert sum(first.values()) == 12
    assert list(first.values()) != [i % 2 == 0 for i in range(24)]


def test_request_and_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    compare(asked(server, key_variable="MY_KEY", request={"max_completion_tokens": 99}), rows(1), str(tmp_path))
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer s3cret"
    assert body["model"] == "a-judge" and body["max_completion_tokens"] == 99 and "max_tokens" not in body
    text = body["messages"][-1]["content"]
    assert "pertanyaan 0?" in text and "sebuah jawaban 0" in text and "jawaban lain 0" in text
    assert not any("s3cret" in p.read_text() for p in tmp_path.rglob("*.json"))
    monkeypatch.delenv("MY_KEY")
    compare(asked(server, key_variable="MY_KEY"), rows(1), str(tmp_path))
    assert "Authorization" not in server.requests[-1][1]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("[[A>B]]", 0.5),
        ("A has [[B>>A]] in its text.\n[[B>A]]\n\n", -0.5),
        ("  [[A=B]]  ", 0.0),
        ("I prefer A: [[A>B]]", None),
        ("[[A>B]]\nThat is all.", None),
        ("[[C>B]]", None),
        ("A", None),
        ("", None),
    ],
)
def test_replies_are_parsed_strictly(reply, verdict):
    assert judge.parse(reply) == verdict


def test_nonsense_counts_as_invalid_and_is_not_paid_twice(server, tmp_path):
    server.behave = lambda n, text: say("I am only a poem.")
    found = compare(asked(server), rows(), str(tmp_path))
    assert {(j.verdict, j.problem.split(":")[0]) for j in found} == {(None, "invalid")}
    assert compare(asked(server), rows(), str(tmp_path)) == found
    assert len(server.requests) == 24


def test_a_killed_run_pays_nothing_twice(server, tmp_path):
    server.behave = prefers("sebuah")
    compare(asked(server), rows()[:9], str(tmp_path))
    before = set(server.seen)
    found = compare(asked(server), rows()[:9], str(tmp_path))
    assert found == [Judgement(1.0)] * 9 and set(server.seen) == before and max(server.seen.values()) == 1
    for other in (
        asked(server, request={"temperature": 1}),
        Judge(f"http://localhost:{server.server_port}/v1", "a-judge"),
        Judge(f"http://127.0.0.1:{server.server_port}/v1", "another"),
    ):
        paid = len(server.requests)
        compare(other, rows()[:9], str(tmp_path))
        assert len(server.requests) == paid + 9


def test_a_stop_in_the_middle_keeps_what_was_said(server, tmp_path):
    server.behave = prefers("sebuah")

    def stop(done):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(asked(server, concurrency=2), rows(), str(tmp_path), on_done=stop)
    paid = len(server.requests)
    assert 5 <= paid < 24
    assert compare(asked(server), rows(), str(tmp_path)) == [Judgement(1.0)] * 24
    assert len(server.requests) == 24


def test_errors_are_tried_again(server, tmp_path):
    faults = [
        (503, {}, b"busy"),
        (429, {"Retry-After": "0.05"}, b""),
        (None, {}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"{}"),
    ]

    def behave(n, text):
        return faults[(len(text) + n) % 5] if n < 4 else say("[[A=B]]")

    server.behave = behave
    assert compare(asked(server), rows(), str(tmp_path)) == [Judgement(0.0)] * 24
    assert set(server.seen.values()) == {4}


def test_a_pair_that_is_refused_stands_alone(server, tmp_path):
    server.behave = lambda n, text: (400, {}, b"content filter") if "pertanyaan 7?" in text else say("[[A=B]]")
    found = compare(asked(server, concurrency=1), rows(), str(tmp_path))
    assert found[7] == Judgement(None, "HTTP 400: content filter")
    assert found[:7] + found[8:] == [Judgement(0.0)] * 23
    assert server.seen.most_common(1)[0][1] == 1


def test_a_dead_judge_is_one_sentence_and_few_requests(server, tmp_path):
    server.behave = lambda n, text: (500, {}, b"down")
    with pytest.raises(ValueError, match=r"no reply to 5 pairs in a row \(HTTP 500: down\).*run again"):
        compare(asked(server, attempts=2, concurrency=1), rows(60), str(tmp_path))
    assert len(server.requests) == 2 * GIVE_UP


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_wrong_key_or_address_stops_at_once(status, server, tmp_path):
    server.behave = lambda n, text: (status, {"Location": "http://127.0.0.1:1/"}, b"no")
    with pytest.raises(ValueError, match=f"refuses every request .HTTP {status}"):
        compare(asked(server, concurrency=1), rows(60), str(tmp_path))
    assert len(server.requests) == 1


def test_concurrency_is_bounded_and_used(server, tmp_path):
    pause = threading.Event()

    def behave(n, text):
        pause.wait(0.02)
        return say("[[A=B]]")

    server.behave = behave
    compare(asked(server, concurrency=3), rows(), str(tmp_path))
    assert server.most_at_once == 3


def test_equal_and_empty_answers_are_not_asked_about(server, tmp_path):
    found = compare(
        asked(server),
        [
            {**rows(1)[0], "answer": " sama", "baseline": "sama "},
            {**rows(1)[0], "answer": "", "baseline": "ada"},
            {**rows(1)[0], "answer": "ada", "baseline": "\n"},
        ],
        str(tmp_path),
    )
    assert found == [Judgement(0.0), Judgement(-1.0), Judgement(1.0)]
    assert server.requests == []


def test_long_answers_are_cut(server, tmp_path):
    compare(asked(server), rows(1, answer="panjang " * 5000), str(tmp_path))
    assert len(server.requests[0][2]["messages"][-1]["content"]) < judge.MAX_ANSWER_CHARS + 500


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_url": "file:///etc"}, "must begin with https://"),
        ({"base_url": "https://host", "concurrency": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        Judge(model="m", **wrong)


def test_what_two_models_ask_alike_is_sent_and_counted_once(server, tmp_path):
    line = Judge(f"http://127.0.0.1:{server.server_port}", "m", concurrency=4)
    requests = [[{"role": "user", "content": text}] for text in ("a", "b", "a", "c", "b", "a")]
    assert judge.unanswered(line, requests, str(tmp_path)) == [0, 1, 3]
    replies = judge.ask(line, requests, str(tmp_path))
    assert replies == [("[[A=B]]", None)] * 6 and server.seen == {"a": 1, "b": 1, "c": 1}
    assert judge.unanswered(line, requests, str(tmp_path)) == []
