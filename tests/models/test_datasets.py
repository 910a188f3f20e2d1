"""Data sets by name, and the parts that clients have of them."""

import gzip
import hashlib
import sys

import numpy as np
import pytest
import torch
import torchvision.datasets.utils as downloads
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import UsageError
from flserver.models.datasets import PUBLISHED, load_test, load_train, partition_indices
from flserver.settings import DATASETS
from tests.examples import times


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- partitions ------------------------------------------------------------------------------------------------------


@times(0.6)
@given(
    labels=st.lists(st.integers(0, 4), min_size=40, max_size=200),
    num_clients=st.integers(1, 8),
    partition=st.sampled_from(["iid", "dirichlet:0.5", "dirichlet:100"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_are_disjoint_cover_everything_and_repeat(labels, num_clients, partition, seed):
    y = torch.tensor(labels)
    parts = partition_indices(y, partition, num_clients, seed)
    assert len(parts) == num_clients
    assert all(len(part) for part in parts)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(y)))
    again = partition_indices(y, partition, num_clients, seed)
    assert all(torch.equal(part, other) for part, other in zip(parts, again, strict=True))


def test_the_cut_is_the_same_everywhere():
    """Clients on different machines never talk about the cut: these numbers must not change."""
    y = torch.arange(12) % 3
    assert [part.tolist() for part in partition_indices(y, "iid", 2, 7)] == [[7, 10, 2, 5, 0, 1], [11, 8, 3, 6, 9, 4]]
    assert [part.tolist() for part in partition_indices(y, "dirichlet:1", 2, 7)] == [
        [4, 7],
        [0, 1, 2, 3, 5, 6, 8, 9, 10, 11],
    ]


def test_iid_parts_are_even_and_dirichlet_parts_are_not():
    y = torch.arange(1000) % 10
    assert {len(part) for part in partition_indices(y, "iid", 10, 0)} == {100}
    shares = {}
    for concentration in ("0.1", "100"):
        parts = partition_indices(y, f"dirichlet:{concentration}", 10, 0)
        shares[concentration] = np.mean([torch.bincount(y[part]).max() / len(part) for part in parts])
    assert shares["0.1"] > 0.4 > 0.2 > shares["100"]
    first, second = (partition_indices(y, "iid", 10, seed)[0] for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("partition", ["", "even", "dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:nan", "iid:3"])
def test_an_unknown_partition_is_refused(partition):
    with pytest.raises(UsageError, match="is neither iid nor dirichlet:A"):
        partition_indices(torch.zeros(10, dtype=torch.int64), partition, 2, 0)


def test_a_client_without_samples_is_refused():
    with pytest.raises(UsageError, match="3 samples are too few for --num-clients 4"):
        partition_indices(torch.zeros(3, dtype=torch.int64), "iid", 4, 0)
    with pytest.raises(UsageError, match="leaves a client without samples"):
        partition_indices(torch.zeros(50, dtype=torch.int64), "dirichlet:0.001", 40, 0)


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_scaled_up_and_a_fifth_is_held_out():
    train_x, train_y = load_train("digits", None, "1", 1, "iid", 0)
    test_x, test_y = load_test("digits", None, "1")
    assert (train_x.shape, test_x.shape) == ((1438, 1, 28, 28), (359, 1, 28, 28))
    assert (train_x.dtype, train_y.dtype) == (torch.float32, torch.int64)
    assert (train_x.min(), train_x.max()) == (0, 1)
    assert set(test_y.tolist()) == set(range(10))
    seen = {image.numpy().tobytes() for image in train_x}
    assert sum(image.numpy().tobytes() in seen for image in test_x) == 0, "a test image was trained on"
    # The 8×8 pixels of the source lie in the 28×28 ones.
    corners = test_x[:, :, [0, 4, 7, 11, 14, 18, 21, 25]][:, :, :, [0, 4, 7, 11, 14, 18, 21, 25]]
    assert corners.unique().numel() == 17


def test_clients_share_digits_out():
    sizes = [len(load_train("digits", None, str(part), 5, "dirichlet:0.5", 3)[1]) for part in range(1, 6)]
    assert sum(sizes) == 1438


@pytest.mark.parametrize("client", ["0", "3", "host-a", "-1", "1.0", ""])
def test_a_client_that_is_none_of_the_parts_is_told_of_the_option(client):
    with pytest.raises(UsageError, match="by --part or else --client-id, is none of the parts 1 to 2 of --num-clients"):
        load_train("digits", None, client, 2, "iid", 0)


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'flserver\[demo\]'"):
        load_test("digits", None)


def test_every_name_that_is_offered_has_data_and_the_other_way_round():
    assert ("fldata", "digits", *PUBLISHED) == DATASETS


def test_an_unknown_data_set_is_refused():
    with pytest.raises(UsageError, match="choose from fldata, digits, mnist, fashion-mnist, cifar10"):
        load_test("imagenet", None)


# --- published files -------------------------------------------------------------------------------------------------


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(downloads, "download_url", refuse)
    monkeypatch.setattr(downloads, "download_and_extract_archive", refuse)


@pytest.fixture
def images():
    return np.random.RandomState(0).randint(0, 256, (6, 28, 28)).astype(np.uint8)


@pytest.mark.parametrize(("dataset", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")])
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_read_from_its_raw_files(tmp_path, images, dataset, folder, zipped):
    (tmp_path / folder).mkdir(parents=True)
    labels = np.array([3, 1, 4, 1, 5, 9], np.uint8)
    for name, array in [("train-images-idx3", images), ("train-labels-idx1", labels)]:
        path = tmp_path / folder / f"{name}-ubyte"
        if zipped:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
        else:
            path.write_bytes(idx(array))
    x, y = load_train(dataset, tmp_path, "1", 1, "dirichlet:1", 0)
    assert torch.equal(x, torch.tensor(images)[:, None] / 255)
    assert (x.dtype, y.dtype, y.tolist()) == (torch.float32, torch.int64, labels.tolist())


def test_cifar10_is_read_from_its_binary_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.RandomState(0).randint(0, 256, (4, 3073)).astype(np.uint8)
    records[:, 0] = [7, 0, 9, 1]
    (folder / "test_batch.bin").write_bytes(records.tobytes())
    x, y = load_test("cifar10", tmp_path)
    assert torch.equal(x, torch.tensor(records[:, 1:]).reshape(4, 3, 32, 32) / 255)
    assert y.tolist() == [7, 0, 9, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not an IDX file"),
        (idx(np.zeros((2, 28), np.uint8)), "is not an IDX file"),
        (idx(np.zeros((2, 28, 28), np.uint8))[:-1], "is not an IDX file"),
        (idx(np.zeros((3, 28, 28), np.uint8)), "has 3 images"),
        (idx(np.zeros((0, 28, 28), np.uint8)), "has 0 images"),
    ],
)
def test_damaged_raw_files_are_named(tmp_path, content, reason):
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    (folder / "t10k-images-idx3-ubyte").write_bytes(content)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(UsageError) as caught:
        load_test("mnist", tmp_path)
    assert reason in one_line(caught)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"0" * 100)[:-9], b"no gzip", gzip.compress(b"")[:10] + b"\xff" * 9],
    ids=["cut", "none", "broken"],
)
def test_a_damaged_archive_is_named(tmp_path, content):
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    (folder / "t10k-labels-idx1-ubyte").touch()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot read .*t10k-images-idx3-ubyte"):
        load_test("mnist", tmp_path)


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist", "cifar10"])
def test_where_nothing_can_be_fetched_it_says_which_files_to_put_where(tmp_path, dataset):
    with pytest.raises(UsageError) as caught:
        load_test(dataset, tmp_path)
    message = one_line(caught)
    published = PUBLISHED[dataset]
    assert str(tmp_path / published.folder) in message
    assert all(name in message for name in published.test)
    assert published.archives[0].url in message


def test_what_is_missing_is_fetched_and_checked(tmp_path, images, monkeypatch):
    fetched = {}
    labels = np.arange(6, dtype=np.uint8)

    def fetch(url, root, md5):
        name = url.rsplit("/", 1)[1]
        fetched[name] = md5
        (tmp_path / "MNIST/raw").mkdir(parents=True, exist_ok=True)
        assert root == str(tmp_path / "MNIST/raw")
        (tmp_path / "MNIST/raw" / name).write_bytes(gzip.compress(idx(images if "images" in name else labels)))

    monkeypatch.setattr(downloads, "download_url", fetch)
    assert load_test("mnist", tmp_path)[1].tolist() == labels.tolist()
    assert len(fetched) == 4
    assert all(len(md5) == len(hashlib.md5().hexdigest()) for md5 in fetched.values())
