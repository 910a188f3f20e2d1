"""The file of --clients."""

from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.identity.roster import Member, read_roster

COLONS = ":".join(["AB"] * 32)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "clients.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_roster(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f'\ufeffID, label, fingerprint\r\n# since May\r\n1,"Lund, ward 3",{COLONS}\r\n\r\nsite-2,,\r\n03,Malmö\r\n',
    )
    assert list(read_roster(path)) == [
        Member(client_id="1", label="Lund, ward 3", fingerprint="sha256:" + "ab" * 32),
        Member(client_id="site-2"),
        Member(client_id="03", label="Malmö"),
    ]


def test_ids_alone_do(tmp_path: Path) -> None:
    assert [member.client_id for member in read_roster(write(tmp_path, "id\n1\n2\n"))] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the first line names the columns"),
        ("1\n2\n", "the first line names the columns"),
        ("id,phone\n1,2\n", "the first line names the columns"),
        ("id,id\n1,2\n", "the first line names the columns"),
        ("id\n", "names nobody"),
        ("id,label\n1,a\n2,b\n1,c\n", "line 4: this id or fingerprint is there already"),
        (f"id,fingerprint\n1,{COLONS}\n2,{'ab' * 32}\n", "line 3: this id or fingerprint"),
        ("id,fingerprint\n1,abc\n", "line 2: a fingerprint is a SHA-256"),
        ("id,fingerprint\n1," + "g" * 64 + "\n", "line 2: a fingerprint is a SHA-256"),
        ("id,label\n,Lund\n", "line 2: '' is not a client id"),
        ("id\n\x1b[2J\n", "line 2: .* is not a client id"),
        ("id\n" + "x" * 129 + "\n", "line 2"),
        (b"id\n\xff\n", "it is not UTF-8"),
        ("id,label\n1,Clinic," + "ab" * 32 + "\n", "line 2: more fields than columns"),
        ('id,label\n1,"' + "x" * 200_000 + "\n", "is no CSV: field larger"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=reason) as caught:
        read_roster(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read --clients .*: No such file"):
        read_roster(tmp_path / "none.csv")
