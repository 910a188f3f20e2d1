"""Files as they are made and read: whose, for whom, and that they are what they seem."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flserver import files
from flserver.errors import UsageError


@pytest.fixture(params=[0, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_for_its_owner_and_its_group_to_read_and_a_stricter_umask_holds(
    tmp_path: Path, umask: int
) -> None:
    os.close(files.create(tmp_path / "file"))
    files.make_folders(tmp_path / "a" / "b")
    assert mode(tmp_path / "file") == 0o640 & ~umask
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o750 & ~umask


def test_with_a_group_it_may_read_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    group = os.getegid()
    os.close(files.create(tmp_path / "file", group))
    assert files.make_folders(tmp_path / "a" / "b", group) == [tmp_path / "a" / "b", tmp_path / "a"]
    assert mode(tmp_path / "file") == 0o640
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o750


@pytest.mark.parametrize("there", ["a file", "a link", "a link that leads nowhere"])
def test_what_is_there_is_never_written_through(tmp_path: Path, there: str) -> None:
    victim, name = tmp_path / "victim", tmp_path / "name"
    if there != "a link that leads nowhere":
        victim.write_text("precious")
    if there == "a file":
        victim.rename(name)
    else:
        name.symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.create(name)
    assert there == "a link that leads nowhere" or name.read_text() == "precious"
    assert there == "a link" or not victim.exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "link":
        (tmp_path / "file").write_text("x")
        path.symlink_to(tmp_path / "file")
    elif kind == "pipe":
        os.mkfifo(path)  # whose reader would wait for ever
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        files.open_regular(path)


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    assert files.group_id(None) is None
    assert files.group_id(str(os.getegid())) == os.getegid()
    with pytest.raises(UsageError, match=r"^--group no-such-group: there is no such group"):
        files.group_id("no-such-group")


def test_a_group_that_the_servers_user_is_not_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="the user that runs the server has to be in that group"):
        files.group_id("54321")


@pytest.mark.parametrize(
    ("mode", "said"), [(0o640, []), (0o600, []), (0o644, ["open to more"]), (0o660, ["open to more"])]
)
def test_what_is_said_of_a_file_that_is_there(tmp_path: Path, mode: int, said: list[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(mode)
    lines = files.complaints(tmp_path / "file", None)
    assert [line.partition(" is ")[2][:12] for line in lines] == said
    assert files.complaints(tmp_path / "none", None) == []


def test_what_the_group_cannot_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o600)
    (line,) = files.complaints(path, path.stat().st_gid)
    assert "is not --group's to read" in line
    (line,) = files.complaints(path, path.stat().st_gid + 1)
    assert f"chgrp {path.stat().st_gid + 1} and chmod 640" in line


@pytest.mark.parametrize("variable", ["CACHE_DIRECTORY", "XDG_CACHE_HOME"])
def test_a_cache_is_ones_own_folder_that_nobody_else_can_change(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "deep"))
    folder = files.own_cache("one")
    assert folder == tmp_path / "deep" / "one"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert files.own_cache("one") == folder
    folder.chmod(0o750)  # somebody else may have looked in, or changed it
    assert files.own_cache("one") is None
    folder.chmod(0o700)
    (tmp_path / "deep").chmod(0o777)  # somebody else can put another in its place
    assert files.own_cache("one") is None
    (tmp_path / "deep").chmod(0o1777)  # as /tmp: only its owner can
    assert files.own_cache("one") == folder
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert files.own_cache("one") is None
    monkeypatch.setenv(variable, "/dev/null")
    assert files.own_cache("one") is None


def test_a_folder_that_another_process_makes_at_the_same_time_is_there_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = os.mkdir

    def after_another(place: Path, mode: int) -> None:
        made(place, mode)
        made(place, mode)

    monkeypatch.setattr(os, "mkdir", after_another)
    assert files.make_folders(tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert (tmp_path / "a" / "b").is_dir()
