"""A Hugging Face hub on this machine, as far as a push asks of one: repositories, files in commits, large ones by git-lfs.

Written from what `huggingface_hub` sends. Tokens have owners they may write for; `break_after` objects the connection is cut.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

REPOSITORY = re.compile(r"^/(?P<api>api/)?(?P<kind>models|datasets)?/?(?P<name>[^/]+/[^/]+?)(?P<rest>(?:\.git)?/.*)?$")


class Hub:
    """`repositories`: (kind, name) -> {"private": …, "files": path -> bytes, "commits": […]}; `objects`: sha256 -> bytes."""

    def __init__(self, tokens: dict[str, set[str]]) -> None:
        self.tokens = tokens
        self.repositories: dict[tuple[str, str], dict] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.break_after: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answered(self, method):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.asked.append(f"{method} {self.path}")
                found = hub.answer(
                    method, unquote(urlsplit(self.path).path), body, self.headers.get("Authorization", "")
                )
                if found is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                status, value = found
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                if status >= 400 and isinstance(value, dict):
                    self.send_header("X-Error-Message", value.get("error", ""))
                if isinstance(value, bytes):
                    self.send_header("ETag", f'"{hashlib.sha256(value).hexdigest()}"')
                    self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if method != "HEAD":
                    self.wfile.write(data)

            def do_GET(self):
                self.answered("GET")

            def do_HEAD(self):
                self.answered("HEAD")

            def do_POST(self):
                self.answered("POST")

            def do_PUT(self):
                self.answered("PUT")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, path: str, body: bytes, authorization: str):
        """(status, JSON or bytes), or None to cut the connection."""
        if path.startswith("/objects/"):  # an upload has its right in its address
            if self.break_after is not None and len(self.objects) >= self.break_after:
                return None
            assert hashlib.sha256(body).hexdigest() == path.rsplit("/", 1)[1]
            self.objects[path.rsplit("/", 1)[1]] = body
            return 200, {}
        owners = self.tokens.get(authorization.removeprefix("Bearer "))
        if owners is None:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            asked = json.loads(body)
            key = (asked.get("type") or "model", f"{asked['organization']}/{asked['name']}")
            if asked["organization"] not in owners:
                return 403, {"error": f"You don't have the rights to create a {key[0]} under this namespace"}
            if key in self.repositories:
                return 409, {"error": f"You already created this {key[0]} repo", "url": f"{self.url}/{key[1]}"}
            files = {".gitattributes": b"*.parquet filter=lfs\n"}
            self.repositories[key] = {"private": asked["visibility"] == "private", "files": files, "commits": []}
            return 200, {"url": f"{self.url}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}"}
        if path == "/api/validate-yaml":  # of a card
            card = json.loads(body)["content"]
            errors = (
                [] if not card.startswith("---") or isinstance(yaml.safe_load(card.split("---")[1]), dict) else ["head"]
            )
            return 200, {"errors": [{"message": error} for error in errors], "warnings": []}
        found = REPOSITORY.match(path)
        if not found:
            return 404, {"error": "no such address"}
        key = ((found["kind"] or "models").removesuffix("s"), found["name"])
        if key not in self.repositories or key[1].split("/")[0] not in owners:
            return 404, {"error": "Repository not found"}
        if method == "GET" and found["api"] and not found["rest"]:
            return 200, {"id": key[1], "private": self.repositories[key]["private"]}
        return self._of(self.repositories[key], found["rest"] or "", body, f"{self.url}/{key[1]}")

    def _of(self, repository: dict, rest: str, body: bytes, url: str):
        files = repository["files"]
        if rest.startswith("/tree/main"):
            return 200, [{"type": "file", "path": p, "size": len(b), "oid": _oid(b)} for p, b in sorted(files.items())]
        if rest.startswith("/resolve/main/"):
            name = rest.removeprefix("/resolve/main/")
            return (200, files[name]) if name in files else (404, {"error": "Entry not found"})
        if rest == "/preupload/main":
            large = (".parquet", ".safetensors", ".gguf")
            return 200, {
                "files": [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(large) else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(files[one["path"]]) if one["path"] in files else None,
                    }
                    for one in json.loads(body)["files"]
                ]
            }
        if rest == ".git/info/lfs/objects/batch":
            made = []
            for one in json.loads(body)["objects"]:
                there = one["oid"] in self.objects
                address = {"upload": {"href": f"{self.url}/objects/{one['oid']}", "header": {}}}
                made.append(one if there else {**one, "actions": address})
            return 200, {"transfer": "basic", "objects": made}
        if rest == "/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            repository["commits"].append(lines[0]["value"]["summary"])
            oid = f"{len(repository['commits']):040x}"
            return 200, {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}
        return 404, {"error": f"no such address: {rest}"}


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
