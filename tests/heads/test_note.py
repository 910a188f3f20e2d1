"""Notes, heads and keys as text: what is written is read again, and what is none is refused."""

import pytest

from flserver.errors import HeadError
from flserver.heads.note import LOG, WITNESS, Checkpoint, Note, PublicKey, Signature, cosigned_text, decoded
from flserver.heads.proofs import Extension, Inclusion
from tests.heads.vectors import PEER, SAID

ROOT = bytes(range(32))
HEAD = Checkpoint(origin="log.example/a", size=20852163, root=ROOT)
SIGNATURE = Signature("log.example/a", b"abcd", bytes(64))


def test_a_key_is_read_as_others_write_it() -> None:
    key = PublicKey.parse(PEER)
    assert (key.name, key.kind, key.key_id.hex()) == ("PeterNeumann", LOG, "c74f20a3")
    assert str(key) == PEER
    witness = PublicKey(name="w", kind=WITNESS, raw=key.raw)
    assert PublicKey.parse(f"{witness}\n") == witness
    assert witness.key_id != PublicKey(name="w", kind=LOG, raw=key.raw).key_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        PEER.replace("c74f20a3", "c74f20a4"),
        PEER.replace("Peter", "Paul"),
        PEER[:-4],
        PEER.replace("+A", "+B"),
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(HeadError):
        PublicKey.parse(text)


def test_a_note_is_read_as_others_write_it() -> None:
    note = Note.parse(SAID)
    assert note.text.endswith("what your problem is.\n")
    assert note.signatures[0].is_of(PublicKey.parse(PEER))
    assert str(note) == SAID


def test_a_head_is_three_lines() -> None:
    assert str(HEAD) == "log.example/a\n20852163\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert Checkpoint.parse(str(HEAD)) == HEAD
    assert Checkpoint.parse(f"{HEAD}an extension\n") == HEAD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log\n1\n",
        "log\n01\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "log\n-1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "log\n9999999999999999999\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "log\n1\nAAEC\n",
        "log\n1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n",
        "\n1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "log\n1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ],
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(HeadError):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\nb\n",
        "a\n\n",
        "a\n\n— w YWJjZGU=",
        "a\n\n- w YWJjZGU=\n",
        "a\n\n— w YWJjZA==\n",
        "a\n\n— w+w YWJjZGU=\n",
        "a\n\n— w  YWJjZGU=\n",
        "a\tb\n\n— w YWJjZGU=\n",
        "x" * 70_000 + "\n\n— w YWJjZGU=\n",
    ],
)
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(HeadError):
        Note.parse(text)


def test_base64_is_taken_in_one_way_of_writing_only() -> None:
    assert decoded("YWI=") == b"ab"
    for text in ("YWI", "YWJ=", "YW I=", "YWI=\n", "ÿWI="):
        with pytest.raises(HeadError):
            decoded(text)


def test_a_witness_signs_a_time_with_the_head() -> None:
    assert cosigned_text(1679315147, "a\n1\nb\n") == b"cosignature/v1\ntime 1679315147\na\n1\nb\n"


def test_proofs_are_read_as_they_are_written() -> None:
    head = Note(str(HEAD)).signed(SIGNATURE)
    for proof in ((), (ROOT,), (ROOT, bytes(32))):
        extension = Extension(old=7, proof=proof, head=head)
        assert str(extension).startswith("old 7\n")
        assert Extension.parse(str(extension)) == extension
        inclusion = Inclusion(extra=b'{"seq":1}', index=0, proof=proof, head=head)
        assert str(inclusion).startswith("c2sp.org/tlog-proof@v1\nextra eyJzZXEiOjF9\nindex 0\n")
        assert Inclusion.parse(str(inclusion)) == inclusion
    assert Extension.parse(str(head)) == Extension(old=0, proof=(), head=head), "a head alone"


@pytest.mark.parametrize(
    "text", ["old x\n\n", "old 1\nAAEC\n\n{head}", "old 1\n" + "{root}\n" * 64 + "\n{head}", "old 1\n\n"]
)
def test_what_is_no_extension_is_refused(text: str) -> None:
    filled = text.format(head=Note(str(HEAD)).signed(SIGNATURE), root="A" * 43 + "=")
    with pytest.raises(HeadError):
        Extension.parse(filled)


@pytest.mark.parametrize("text", ["", "c2sp.org/tlog-proof@v1\n\n{head}", "c2sp.org/tlog-proof@v2\nindex 0\n\n{head}"])
def test_what_is_no_inclusion_is_refused(text: str) -> None:
    with pytest.raises(HeadError):
        Inclusion.parse(text.format(head=Note(str(HEAD)).signed(SIGNATURE)))
