"""Addresses of models: what is one, and what is said of what is none."""

from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.settings.folders import ObjectPath, absolute, folder_of


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [("s3://models", "models", ""), ("s3://models/", "models", ""), ("s3://a.b-c/x//y/", "a.b-c", "x/y")],
)
def test_an_address_has_a_bucket_and_perhaps_a_prefix(text: str, bucket: str, key: str) -> None:
    assert folder_of(text) == ObjectPath(bucket, key)
    assert absolute(text) == str(folder_of(text)) == f"s3://{bucket}/{key}".rstrip("/")


def test_what_is_no_address_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_of("models") == Path("models")
    assert absolute("models") == str(tmp_path / "models")


def test_its_parts() -> None:
    place = ObjectPath("b") / "run" / "round-000001.safetensors"
    assert (str(place), place.name, place.stem) == (
        "s3://b/run/round-000001.safetensors",
        "round-000001.safetensors",
        "round-000001",
    )
    assert place.parent == ObjectPath("b", "run")
    assert place.below(ObjectPath("b")) == "run/round-000001.safetensors"
    assert place.below(ObjectPath("b", "run")) == "round-000001.safetensors"


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA:hush@models/prefix",
        "s3://AKIA:hu/sh@models/prefix",
        "s3://hush@models",
        "s3://models/prefix?secret=hush",
        "s3://models/hush#x",
        "s3://h/hush",
        "s3:///hush",
        "s3://MODELS/hush",
        "s3://arn:aws:s3:eu:1:accesspoint/hush",
        "s3://models/../hush",
        "s3://models/hush\n",
    ],
)
def test_credentials_and_what_is_no_address_are_refused_and_not_repeated(text: str) -> None:

    with pytest.raises(UsageError, match=r"^s3://…: ") as refused:
        folder_of(text)
    assert "hush" not in str(refused.value)
    assert ("AWS_ACCESS_KEY_ID" in str(refused.value)) == ("@" in text)
