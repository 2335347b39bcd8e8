"""Signatures of S3 requests against the published steps of AWS Signature Version 4 (addresses: test_commoncrawl_s3.py)."""

import hashlib
import hmac
import threading
from urllib.parse import urlsplit

import pytest

from cluster.fetch import s3_request

exceptions = pytest.importorskip("botocore.credentials")


class Rotating:
    """Credentials of an instance role that are renewed at every look: only the frozen ones belong together."""

    def __init__(self):
        self.looks = 0

    def get_frozen_credentials(self):
        self.looks += 1
        return exceptions.ReadOnlyCredentials(f"id{self.looks}", f"secret{self.looks}", f"token{self.looks}")

    @property
    def access_key(self):
        return self.get_frozen_credentials().access_key

    @property
    def secret_key(self):
        return self.get_frozen_credentials().secret_key

    @property
    def token(self):
        return self.get_frozen_credentials().token


def signature(address: str, headers: dict[str, str], secret: str, region: str) -> str:
    """Docs.aws.amazon.com, "Create a signed AWS API request", step by step."""
    scope, names = (part.split("=")[1] for part in headers["Authorization"].split(" ", 1)[1].split(", ")[:2])
    sent = {name.lower(): value.strip() for name, value in headers.items()} | {"host": urlsplit(address).netloc}
    canonical = "\n".join(
        [
            *("GET", urlsplit(address).path, ""),
            *(f"{name}:{sent[name]}" for name in names.split(";")),
            *("", names, sent["x-amz-content-sha256"]),
        ]
    )
    _, day, *rest = scope.split("/")
    assert rest == [region, "s3", "aws4_request"]
    text = f"AWS4-HMAC-SHA256\n{sent['x-amz-date']}\n{day}/{region}/s3/aws4_request\n"
    key = f"AWS4{secret}".encode()
    for part in (day, *rest):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, (text + hashlib.sha256(canonical.encode()).hexdigest()).encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("key", ["a/b.gz", "crawl=CC-MAIN-2024-18/a b+c~ก.parquet"])
def test_a_signature_is_of_one_set_of_credentials(monkeypatch, key):
    monkeypatch.setattr(s3_request, "_credentials", threading.local())
    s3_request._credentials.found = Rotating()
    address = s3_request.url(f"s3://bucket/{key}", "eu-west-1")
    headers = s3_request.signed_headers(address, "eu-west-1", {"Range": "bytes=5-9"})
    who = headers["Authorization"].split("Credential=")[1].split("/")[0]
    number = who.removeprefix("id")
    assert headers["X-Amz-Security-Token"] == f"token{number}" and headers["Range"] == "bytes=5-9"
    assert headers["Authorization"].endswith(f"Signature={signature(address, headers, f'secret{number}', 'eu-west-1')}")
