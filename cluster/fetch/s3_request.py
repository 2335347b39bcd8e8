"""S3 objects as plain HTTPS requests, signed or anonymous, so that one fetcher with one rate limit reads every base.

The usual S3 clients retry by themselves, out of sight of a rate limit that a cluster shares. Credentials are found as
botocore finds them (environment, profile, instance role); `AWS_ENDPOINT_URL` names another server.
"""

from __future__ import annotations

import os
import threading
from urllib.parse import quote

_credentials = threading.local()


def url(uri: str, region: str) -> str:
    """The address of `s3://bucket/key` at Amazon, or at `AWS_ENDPOINT_URL` where that is set."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        return f"{endpoint.rstrip('/')}/{bucket}/{quote(key)}"
    if "." in bucket:  # the certificate of *.s3.amazonaws.com covers one label
        return f"https://s3.{region}.amazonaws.com/{bucket}/{quote(key)}"
    return f"https://{bucket}.s3.{region}.amazonaws.com/{quote(key)}"


def signed_headers(address: str, region: str, headers: dict[str, str]) -> dict[str, str]:
    """`headers` with an AWS signature (version 4) of a GET. Raises ValueError when botocore or credentials are missing."""
    try:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError:
        raise ValueError("s3:// needs the package s3fs: pip install s3fs") from None
    request = AWSRequest("GET", address, headers=headers)
    # frozen: an instance role's may be renewed between a look at the key and one at the token
    S3SigV4Auth(_find().get_frozen_credentials(), "s3", region).add_auth(request)
    return dict(request.headers.items())


def _find():
    """The credentials of this thread; botocore renews those of an instance role when they end."""
    if not hasattr(_credentials, "found"):
        from botocore.session import Session

        _credentials.found = Session().get_credentials()
    if _credentials.found is None:
        raise ValueError(
            "s3:// found no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, give the node a role, "
            "or set fetch.anonymous: true where the bucket allows it"
        )
    return _credentials.found
