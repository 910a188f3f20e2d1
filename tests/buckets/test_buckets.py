"""A real S3-speaking server: what it is given it has, or that is noticed."""

import hashlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from flserver import buckets
from flserver.buckets import client, reading, writing
from flserver.errors import NotInstalled
from flserver.settings.folders import ObjectPath
from tests.s3_server import BUCKET, SECRET, S3Server

pytestmark = pytest.mark.s3
DATA = os.urandom(300_000)


def pieces(data: bytes) -> list[bytes | memoryview]:
    return [b"", data[:7], memoryview(data)[7:200], data[200:]]


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def content(place: ObjectPath) -> bytes:
    with buckets.ObjectReader(place) as file:
        return file.read()


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> ObjectPath:
    return ObjectPath(BUCKET, f"of/{request.node.name}")


def test_what_is_put_in_pieces_is_one_object_with_its_sum(s3: S3Server, folder: ObjectPath) -> None:
    s3.tell("checks")
    assert buckets.put(folder / "x", pieces(DATA), digest(DATA)) is True
    assert content(folder / "x") == DATA
    with buckets.ObjectReader(folder / "x") as file:
        assert file.seek(-5, os.SEEK_END) == len(DATA) - 5
        assert file.read() == DATA[-5:]
        assert file.seek(100) == file.tell() == 100
        assert file.read(3) == DATA[100:103]
    assert buckets.listed(folder) == (["x"], [])
    assert buckets.listed(ObjectPath(BUCKET, "of")) == ([], [folder.name])
    assert buckets.exists(folder / "x")
    for _ in range(2):
        buckets.remove(folder / "x")
    assert not buckets.exists(folder / "x")


@pytest.mark.parametrize(("mood", "checks"), [("checks", True), ("believes", False), ("forgets", False)])
def test_it_is_found_out_whether_a_store_checks_what_it_gets(
    s3: S3Server, folder: ObjectPath, mood: str, checks: bool
) -> None:
    s3.tell(mood)
    assert buckets.refuses_other_bytes(folder / "probe") is checks
    assert buckets.listed(folder) == ([], []), "nothing stays"
    assert buckets.put(folder / "x", [DATA], digest(DATA)) is (mood != "forgets"), "whether it says that sum"


def test_bytes_that_changed_on_the_way_are_refused_and_may_be_sent_again(s3: S3Server, folder: ObjectPath) -> None:
    s3.tell("checks")
    with pytest.raises(buckets.Unreachable, match="have changed on the way"):
        buckets.put(folder / "x", [DATA], digest(DATA + b"!"))


def test_a_large_one_goes_in_parts_each_with_its_sum(
    s3: S3Server, folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ONE_PUT", 6 << 20)
    monkeypatch.setattr(writing, "PART", 5 << 20)
    s3.tell("checks")
    data = os.urandom(11 << 20)
    buckets.put(folder / "x", pieces(data), digest(data))
    assert content(folder / "x") == data
    sent = []
    put_part = client.client().upload_part

    def fails(**request: object) -> object:
        sent.append(request["PartNumber"])
        if len(sent) == 2:
            raise ConnectionResetError
        return put_part(**request)

    monkeypatch.setattr(client.client(), "upload_part", fails)
    with pytest.raises(buckets.Unreachable):
        buckets.put(folder / "y", pieces(data), digest(data))
    where = {"Bucket": BUCKET, "Prefix": folder.key}
    assert client.client().list_multipart_uploads(**where).get("Uploads", []) == [], "given up"
    client.client().create_multipart_upload(Bucket=BUCKET, Key=(folder / "z").key)  # a server died
    buckets.abort_uploads(folder)
    assert client.client().list_multipart_uploads(**where).get("Uploads", []) == []


def test_what_breaks_off_is_read_on_and_of_the_same_version(s3: S3Server, folder: ObjectPath) -> None:
    buckets.put(folder / "x", [DATA], digest(DATA))
    s3.tell("cuts")
    assert content(folder / "x") == DATA
    file = buckets.ObjectReader(folder / "x")
    assert file.read(10) == DATA[:10]
    buckets.put(folder / "x", [DATA[::-1]], digest(DATA[::-1]))
    file.seek(100)
    with pytest.raises(OSError, match="PreconditionFailed"):
        file.read(10)
    file.close()


def test_a_body_that_breaks_off_again_and_again_is_given_up(
    s3: S3Server, folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets.put(folder / "x", [DATA], digest(DATA))
    monkeypatch.setattr(reading, "REOPENED", 0)
    s3.tell("cuts")
    with pytest.raises(buckets.Unreachable):
        content(folder / "x")


def test_each_thing_that_goes_wrong_has_its_own_error(s3: S3Server, folder: ObjectPath) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such object"):
        content(folder / "none")
    with pytest.raises(FileNotFoundError, match="there is no bucket elsewhere"):
        buckets.look(ObjectPath("elsewhere"))
    s3.tell("locks")
    with pytest.raises(PermissionError, match="the object store refuses: InvalidAccessKeyId"):
        buckets.look(folder)
    s3.tell("opens")
    s3.tell("down")
    try:
        with pytest.raises(buckets.Unreachable, match="cannot be reached"):
            buckets.exists(folder)
    finally:
        s3.tell("up")


def test_without_credentials_it_is_said_where_they_come_from(
    s3: S3Server, folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(PermissionError, match=r"credentials.*AWS_ACCESS_KEY_ID"):
        buckets.look(folder)


def test_without_the_library_the_extra_is_named(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotInstalled, match=r"flserver\[s3\]"):
        buckets.look(ObjectPath(BUCKET))


def test_patience_tries_again_as_long_as_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.001)
    tries = iter([buckets.Unreachable(5, "gone"), buckets.Unreachable(5, "gone"), None])

    def work() -> str:
        if (error := next(tries)) is not None:
            raise error
        return "done"

    assert buckets.patiently(work, "it", 3600) == "done"
    tries = iter([buckets.Unreachable(5, "gone")])
    with pytest.raises(buckets.Unreachable):
        buckets.patiently(work, "it", 0)
    tries = iter([PermissionError(13, "no")])  # type: ignore[list-item]
    with pytest.raises(PermissionError):
        buckets.patiently(work, "it", 3600)


@pytest.fixture
def asked(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Requests to a store that takes them and says nothing."""
    requests: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as store:

        def take() -> None:
            with suppress(OSError):
                while True:
                    requests.append(store.accept()[0])

        taking = threading.Thread(target=take)
        taking.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.getsockname()[1]}")
        try:
            yield requests
        finally:
            buckets.close()
            store.shutdown(socket.SHUT_RDWR)
            taking.join()
            for request in requests:
                request.close()


def test_a_store_that_hangs_is_not_waited_for_beyond_patience(
    asked: list[socket.socket], folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENCES", (1,))
    with pytest.raises(buckets.Unreachable, match="Read timeout"):
        buckets.patiently(lambda: buckets.put(folder / "x", [DATA], digest(DATA)), "it", 0.5)
    assert len(asked) == 1, "botocore does not ask again by itself"


def test_what_a_store_may_take_fits_what_is_left_of_patience(s3: S3Server) -> None:
    def silence() -> tuple[int, int]:
        config = client.client().meta.config
        return config.read_timeout, config.retries["total_max_attempts"]

    assert [buckets.patiently(silence, "it", left) for left in (0, 9, 25, 60, 3600)] == [
        *((10, 1), (10, 1), (20, 1), (60, 1), (60, 1))
    ]
    assert silence() == (20, 3), "who is not patient has botocore's patience"


def test_nothing_secret_is_logged(s3: S3Server, folder: ObjectPath, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        buckets.put(folder / "x", [DATA], digest(DATA))
        content(folder / "x")
    assert SECRET not in caplog.text
    assert "Authorization" not in caplog.text
