"""``python -m tests.s3_server``: moto's S3 on loopback, in a process of its own; and a handle on it for tests.

It takes orders on its standard input, a line each, and answers each with a line: ``down`` and ``up`` (nobody listens
meanwhile, and what it holds stays), ``checks`` (it holds what it is given against the SHA-256 that comes with it, as
Amazon's does and moto does not), ``believes`` (it does not, as before), ``forgets`` (it does not know of checksums),
``spoils`` (what it is given next comes out changed), ``cuts`` (what is read next breaks off), ``locks`` and ``opens``
(no credentials are good, and all are).
"""

import base64
import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flserver import buckets
from tests.ports import free_port

BUCKET = "models"
SECRET = "wJalrXUtnFEMI-a-secret-that-nobody-may-see"
Respond = Callable[..., Any]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["S3Server"]:
    """One for all tests, which have buckets or prefixes of their own."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch) -> Iterator["S3Server"]:
    """The server, for code that runs in the test's own process."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    buckets.close()
    yield s3_server
    buckets.close()
    s3_server.tell("believes")


class S3Server:
    """A server in a process of its own. ``env`` is what a program needs to speak to it."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3_server"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.url = f"http://127.0.0.1:{self._answer()}"
        self.env = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def tell(self, order: str) -> None:
        """Give an order, and wait until it is carried out."""
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        assert self._answer() == order

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Store:
    """What stands before moto's application, and makes it what real stores are, or what they should not be."""

    def __init__(self, application: Respond) -> None:
        self._application = application
        self.mood = "believes"
        self.locked = self.spoils = False

    def __call__(self, environ: dict[str, Any], start_response: Respond) -> Iterable[bytes]:
        mood, put = self.mood, environ["REQUEST_METHOD"] == "PUT"
        if self.locked:
            return _refuse(start_response, "403 Forbidden", "InvalidAccessKeyId")
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) if put else b""
        if mood == "forgets":
            for name in [name for name in environ if "CHECKSUM" in name]:
                del environ[name]
        if put and self.spoils:
            body, self.spoils = body[:-1] + bytes([body[-1] ^ 1]), False
        said = environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
        if put and mood == "checks" and said not in (None, base64.b64encode(hashlib.sha256(body).digest()).decode()):
            return _refuse(start_response, "400 Bad Request", "BadDigest")
        if put:
            environ["wsgi.input"] = io.BytesIO(body)
        answer = self._application(environ, start_response)
        if mood == "cuts" and environ["REQUEST_METHOD"] == "GET":
            self.mood = "believes"
            return [b"".join(answer)[:1000]]
        return answer


def _refuse(start_response: Respond, status: str, code: str) -> list[bytes]:
    start_response(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()]


def _client_of(port: int) -> dict[str, str]:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    return {"endpoint_url": f"http://127.0.0.1:{port}", **keys}


def main() -> None:
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Store(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", free_port(), application, threaded=True)
    port = server.port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    boto3.client("s3", **_client_of(port)).create_bucket(Bucket=BUCKET)
    print(port, flush=True)
    for line in sys.stdin:
        match line.strip():
            case "down":
                server.shutdown()
                thread.join()
                server.server_close()
            case "up":
                server = make_server("127.0.0.1", port, application, threaded=True)
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
            case "locks" | "opens" as order:
                application.locked = order == "locks"
            case "spoils":
                application.spoils = True
            case mood:
                application.mood = mood
        print(line.strip(), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
