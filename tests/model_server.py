"""A chat model behind OpenAI's protocol on loopback, that says what a test wants."""

import hashlib
import json
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def say(text, **choice):
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}, **choice}]}).encode()


def one_of(texts, asked):
    """A text, the same for the same request."""
    return texts[int(hashlib.md5(asked.encode()).hexdigest(), 16) % len(texts)]


@contextmanager
def serving(behave):
    """`behave(n, text) -> (status, headers, body)`: n counts the requests of a text from 1; a status of None cuts the connection.

    The server has `behave`, `bodies` (all requests) and `seen` (requests of each text)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            with found.lock:
                found.bodies.append(body)
                found.seen[text] += 1
                n = found.seen[text]
            status, headers, reply = found.behave(n, text)
            if status is None:
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

        def handle(self):
            with suppress(ConnectionError):  # who asked was killed
                super().handle()

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.bodies, found.seen, found.lock, found.behave = [], Counter(), threading.Lock(), behave
    found.url = f"http://127.0.0.1:{found.server_port}/v1"
    thread = threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()
