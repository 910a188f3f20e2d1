"""Keys: made once, kept for their owner alone, and what they have signed is what they have signed."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from flserver.errors import HeadError, UsageError
from flserver.heads import keys
from flserver.heads.keys import PrivateKey, cosigned_at, load, opened
from flserver.heads.note import LOG, WITNESS, Note, PublicKey
from tests.heads.vectors import PEER, SAID

ROOT = bytes(range(32))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def secret(path: Path, text: bytes = b"open sesame\n") -> Path:
    path.write_bytes(text)
    path.chmod(0o600)
    return path


def test_a_note_that_others_signed_verifies() -> None:
    note = Note.parse(SAID)
    with pytest.raises(HeadError, match="three lines"):
        opened(note, PublicKey.parse(PEER))
    # The text is no head; the signature is checked as any other.
    assert keys._holds(PublicKey.parse(PEER), note.signatures[0].data, note.text.encode())


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("passphrase", [None, b"open sesame"])
def test_a_key_is_read_again_and_nobody_else_can(tmp_path: Path, passphrase: bytes | None, umask: int) -> None:
    key, path = PrivateKey.generate("log.example/a"), tmp_path / "key"
    before = os.umask(umask)
    try:
        beside = key.write(path, passphrase)
    finally:
        os.umask(before)
    assert (mode(path), mode(beside)) == (0o600, 0o644)
    assert beside == tmp_path / "key.pub"
    assert PublicKey.parse(beside.read_text()) == key.public
    file = None if passphrase is None else secret(tmp_path / "passphrase")
    again = load(path, LOG, "--sign-key", file)
    assert again.public == key.public
    assert opened(again.sign(3, ROOT), key.public).size == 3


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key"
    PrivateKey.generate("a").write(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="there already"):
        PrivateKey.generate("a").write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("wider", [0o640, 0o604, 0o660])
def test_a_key_or_passphrase_that_others_can_read_is_refused(tmp_path: Path, wider: int) -> None:
    path, words = tmp_path / "key", secret(tmp_path / "passphrase")
    PrivateKey.generate("a").write(path, b"open sesame")
    load(path, LOG, "--sign-key", words)
    for file in (path, words):
        file.chmod(wider)
        with pytest.raises(UsageError, match=f"others can read it .mode {wider:04o}.: chmod 600"):
            load(path, LOG, "--sign-key", words)
        file.chmod(0o600)


def test_what_is_wrong_with_a_key_is_said(tmp_path: Path) -> None:
    plain, locked, witness = tmp_path / "plain", tmp_path / "locked", tmp_path / "witness"
    PrivateKey.generate("a").write(plain)
    PrivateKey.generate("a").write(locked, b"open sesame")
    PrivateKey.generate("w", WITNESS).write(witness)
    good, wrong = secret(tmp_path / "good"), secret(tmp_path / "wrong", b"close sesame\n")
    empty, other = secret(tmp_path / "empty", b"\n"), secret(tmp_path / "other", b"-----BEGIN PRIVATE KEY-----\n")
    damaged = secret(tmp_path / "damaged", plain.read_bytes()[:60])
    for path, words, said in (
        (tmp_path / "none", None, "No such file"),
        (locked, None, "has a passphrase: --sign-key-passphrase-file"),
        (locked, wrong, "the passphrase is wrong"),
        (locked, empty, "first line is empty"),
        (plain, good, "has no passphrase"),
        (witness, None, "is a witness key, and a signing key is due"),
        (other, None, "no key that flserver keygen has made"),
        (damaged, None, "is damaged"),
    ):
        with pytest.raises(UsageError, match=f"--sign-key.*{said}"):
            load(path, LOG, "--sign-key", words)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "x" * 201])
def test_not_everything_is_a_name(name: str) -> None:
    with pytest.raises(HeadError, match="cannot be a key's name"):
        PrivateKey.generate(name)


def test_a_head_is_its_logs_own() -> None:
    key, other = PrivateKey.generate("a"), PrivateKey.generate("a")
    head = key.sign(3, ROOT)
    assert (opened(head, key.public).size, opened(head, key.public).root) == (3, ROOT)
    assert opened(other.sign(3, ROOT).signed(*head.signatures), key.public).size == 3, "one of several"
    for wrong in (
        other.sign(3, ROOT),
        Note(head.text.replace("\n3\n", "\n4\n"), head.signatures),
        Note(head.text),
        Note(head.text, tuple(replace(one, name="b") for one in head.signatures)),
        Note(head.text, tuple(replace(one, data=one.data[:-1]) for one in head.signatures)),
    ):
        with pytest.raises(HeadError, match="has not signed"):
            opened(wrong, key.public)
    with pytest.raises(HeadError, match="and not of b"):
        opened(head, PrivateKey.generate("b").public)


def test_a_cosignature_says_when_and_is_of_that_head() -> None:
    log, witness = PrivateKey.generate("a"), PrivateKey.generate("w", WITNESS)
    head = log.sign(3, ROOT)
    seen = head.signed(witness.cosign(head, 1_700_000_000))
    assert cosigned_at(seen, witness.public) == 1_700_000_000
    assert opened(seen, log.public).size == 3
    assert cosigned_at(head, witness.public) is None
    assert cosigned_at(Note(log.sign(4, ROOT).text, seen.signatures), witness.public) is None
    assert cosigned_at(seen, PrivateKey.generate("w", WITNESS).public) is None
