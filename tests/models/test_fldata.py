"""The trainers' data files, in LEAF's form."""

import json
import logging

import pytest
import torch

from flserver.errors import UsageError
from flserver.models.datasets import load_test, load_train
from tests.fldata import write_fldata

ROW = [0.5] * 784
ZEROS = [0.0] * 784
NOBODY = {"x": [], "y": []}


def samples(*labels):
    return {"x": [ROW for _ in labels], "y": [*labels]}


def write(folder, client, users, split="test"):
    """A client's file as LEAF writes it."""
    path = folder / split / f"mnist_{split}_client{client}.json"
    path.parent.mkdir(exist_ok=True)
    counts = [len(user["y"]) for user in users.values()]
    path.write_text(json.dumps({"users": [*users], "num_samples": counts, "user_data": users}))
    return path


def warnings(caplog):
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("float_labels", [False, True])
def test_there_are_files_for_every_client(tmp_path, float_labels):
    write_fldata(tmp_path, [1, "host-a"], samples=50, float_labels=float_labels)
    for client in ("1", "host-a"):
        x, y = load_train("fldata", tmp_path, client, 1, "iid", 0)
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((50, 784), torch.float32, (50,), torch.int64)
        written = json.loads((tmp_path / f"train/mnist_train_client{client}.json").read_text())["user_data"]["0"]
        assert torch.equal(x, torch.tensor(written["x"]))
        assert y.tolist() == written["y"]
    tests = [load_test("fldata", tmp_path, client) for client in ("1", "host-a")]
    x, y = load_test("fldata", tmp_path)
    assert torch.equal(x, torch.cat([x for x, _ in tests]))
    assert torch.equal(y, torch.cat([y for _, y in tests]))


def test_the_users_in_one_file_are_joined(tmp_path, caplog):
    write(tmp_path, 7, {"0": samples(3), "1": samples(4, 5)}, split="train")
    assert load_train("fldata", tmp_path, "7", 1, "iid", 0)[1].tolist() == [3, 4, 5]
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("users", "labels", "named"),
    [
        ({"w1": samples(3), "w2": NOBODY}, [3], "w2"),
        ({"w1": NOBODY, "w2": samples(3, 4)}, [3, 4], "w1"),
        ({"w1": NOBODY, "w2": samples(3), "w3": NOBODY, "w4": samples(5)}, [3, 5], "w1, w3"),
        ({"f0\x1b[2J\n": NOBODY, "w2": samples(3)}, [3], "f0\\x1b[2J\\n"),
        (
            {f"w{at}": NOBODY for at in range(12)} | {"last": samples(3)},
            [3],
            "w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 and 2 more",
        ),
    ],
)
def test_a_user_without_samples_is_left_out_with_a_warning_that_names_file_and_user(
    tmp_path, caplog, users, labels, named
):
    path = write(tmp_path, 1, users)
    x, y = load_test("fldata", tmp_path, "1")
    assert (x.shape, y.tolist()) == ((len(labels), 784), labels)
    assert warnings(caplog) == [f"{path} holds no samples of user {named}: left out"]


@pytest.mark.parametrize("empty", [{}, {"w1": NOBODY}, {"w1": NOBODY, "w2": NOBODY}])
def test_a_client_without_samples_is_left_out_while_others_have_some(tmp_path, caplog, empty):
    path = write(tmp_path, 1, empty)
    write(tmp_path, 2, {"w3": samples(7)})
    assert load_test("fldata", tmp_path)[1].tolist() == [7]
    assert warnings(caplog) == [f"{path} holds no samples: left out"]
    with pytest.raises(UsageError, match=r"^.*mnist_test_client1\.json holds no samples$"):
        load_test("fldata", tmp_path, "1")


def test_where_nobody_has_samples_all_files_are_named(tmp_path):
    paths = [write(tmp_path, client, {"w": NOBODY}) for client in (1, 2)]
    with pytest.raises(UsageError) as caught:
        load_test("fldata", tmp_path)
    assert str(caught.value) == f"{paths[0]}, {paths[1]} hold no samples"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not the JSON of a data file"),
        ("{", "is not the JSON of a data file"),
        ("[" * 100_000, "is not the JSON of a data file"),
        ("[]", "is not of the form"),
        ({"users": {}}, "is not of the form"),
        ({"user_data": []}, "is not of the form"),
        ({"user_data": {"w": {"x": [ROW]}}}, "user w: not of the form"),
        ({"user_data": {"w": {"y": [1]}}}, "user w: not of the form"),
        ({"user_data": {"w": [[ROW], [1]]}}, "user w: not of the form"),
        ({"user_data": {"w": {"x": None, "y": None}}}, "user w: not of the form"),
        ({"user_data": {}}, "holds no samples"),
        ({"user_data": {"w": NOBODY}}, "holds no samples"),
        ({"user_data": {"w": {"x": [], "y": [1]}}}, "user w: x of shape (0,) and y of shape (1,)"),
        ({"user_data": {"w": {"x": [ROW], "y": []}}}, "user w: x of shape (1, 784) and y of shape (0,)"),
        ({"user_data": {"w": {"x": [[]], "y": [1]}}}, "user w: x of shape (1, 0)"),
        ({"user_data": {"w": {"x": [ROW[1:]], "y": [1]}}}, "user w: x of shape (1, 783) and y of shape (1,), not"),
        ({"user_data": {"w": {"x": [ROW], "y": [1, 2]}}}, "user w: x of shape (1, 784) and y of shape (2,)"),
        ({"user_data": {"w": {"x": ROW, "y": [1]}}}, "user w: x of shape (784,)"),
        ({"user_data": {"w": {"x": [ROW, ROW[1:]], "y": [1, 1]}}}, "user w: x or y is no array of numbers"),
        ({"user_data": {"w": {"x": [["a"] * 784], "y": [1]}}}, "user w: x or y is no array of numbers"),
        ({"user_data": {"w": {"x": [ROW], "y": [10**400]}}}, "user w: x or y is no array of numbers"),
        ({"user_data": {"w": {"x": [[None] * 784], "y": [1]}}}, "user w: x is not from 0 to 1"),
        ({"user_data": {"w": {"x": [[255.0] * 784], "y": [1]}}}, "user w: x is not from 0 to 1"),
        ({"user_data": {"w": {"x": [[-0.1] * 784], "y": [1]}}}, "user w: x is not from 0 to 1"),
        ({"user_data": {"w": {"x": [ZEROS], "y": [1.5]}}}, "user w: y holds something else than class numbers"),
        ({"user_data": {"w": {"x": [ZEROS], "y": [-1]}}}, "user w: y holds something else than class numbers"),
        ({"user_data": {"w": {"x": [ZEROS], "y": [None]}}}, "user w: y holds something else than class numbers"),
        ({"user_data": {"good": samples(1), "w": {"x": [ROW], "y": [-1]}}}, "user w: y holds something else"),
        ({"user_data": {"\n": {"x": [ROW], "y": [-1]}}}, "user \\n: y holds something else"),
    ],
)
def test_a_damaged_data_file_is_a_usage_error_of_one_line_that_names_file_and_user(tmp_path, content, reason):
    path = tmp_path / "train/mnist_train_client1.json"
    path.parent.mkdir()
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError) as caught:
        load_train("fldata", tmp_path, "1", 1, "iid", 0)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_data_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"mnist_train_client9\.json: No such file"):
        load_train("fldata", tmp_path, "9", 1, "iid", 0)
    with pytest.raises(UsageError, match=r"there is no file .*mnist_test_client\*\.json"):
        load_test("fldata", tmp_path)
