"""Data sets by name, and how clients share them out: for evaluation on the server and for flclient.

Data are a pair: ``x``, float32 from 0 to 1, with the samples first, and ``y``, int64 class numbers (N,). A sample of
fldata is (784,), one of cifar10 (3, 32, 32), one of the others (1, 28, 28). Where a file is missing or damaged, the
functions raise UsageError, one line that names it. Nothing here reads a pickle: that is why CIFAR-10 comes from its
binary version.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flserver.errors import NotInstalled, UsageError
from flserver.models.fldata import Data, data_file, read_files
from flserver.settings import DATASETS

MOST_DRAWS = 100  # of a partition that leaves somebody without samples


class Archive(NamedTuple):
    """A file to fetch: where it is, and the MD5 (hex) that it should have."""

    url: str
    md5: str


class Published(NamedTuple):
    """A data set that others publish: where its files lie below the data directory, and where they come from."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    archives: tuple[Archive, ...]


_IDX_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_IDX_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx_archives(base: str, *md5s: str) -> tuple[Archive, ...]:
    return tuple(Archive(f"{base}{name}.gz", md5) for name, md5 in zip(_IDX_TRAIN + _IDX_TEST, md5s, strict=True))


PUBLISHED = {
    "mnist": Published(
        "MNIST/raw",
        _IDX_TRAIN,
        _IDX_TEST,
        _idx_archives(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion-mnist": Published(
        "FashionMNIST/raw",
        _IDX_TRAIN,
        _IDX_TEST,
        _idx_archives(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "cifar10": Published(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{part}.bin" for part in range(1, 6)),
        ("test_batch.bin",),
        (Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
}


def load_train(
    dataset: str, data_dir: Path | None, client_id: str, num_clients: int, partition: str, seed: int
) -> Data:
    """The training data of one client, from below ``data_dir`` (None: where ``--data-dir`` has its default).

    fldata has a file for every client. The others are cut into ``num_clients`` parts (see :func:`partition_indices` for
    ``partition`` and ``seed``), and ``client_id`` is the number of one of them, ``"1"`` to ``str(num_clients)``.
    Raises UsageError where there is no such data set, part or file.
    """
    if dataset == "fldata":
        return read_files([data_file(data_dir, "train", client_id)])
    part = int(client_id) if client_id.isdecimal() else 0
    if not 1 <= part <= num_clients:
        raise UsageError(
            f"{client_id!r}, by --part or else --client-id, is none of the parts 1 to {num_clients} of --num-clients"
        )
    x, y = _load_whole(dataset, data_dir, "train")
    mine = partition_indices(y, partition, num_clients, seed)[part - 1]
    return x[mine], y[mine]


def load_test(dataset: str, data_dir: Path | None, client_id: str | None = None) -> Data:
    """The test data, from below ``data_dir`` (None: where ``--data-dir`` has its default).

    Of fldata that is the file of ``client_id``, or those of all clients where it is None; of the others the test split,
    whoever asks. Raises UsageError where there is no such data set or file.
    """
    if dataset != "fldata":
        return _load_whole(dataset, data_dir, "test")
    if client_id is not None:
        return read_files([data_file(data_dir, "test", client_id)])
    pattern = data_file(data_dir, "test", "*")
    paths = sorted(pattern.parent.glob(pattern.name))
    if not paths:
        raise UsageError(f"there is no file {pattern}")
    return read_files(paths)


def partition_indices(y: Tensor, partition: str, num_clients: int, seed: int) -> list[Tensor]:
    """Which samples each client has: ``num_clients`` int64 tensors of indices, disjoint, none empty, all of ``y`` (N,).

    ``iid`` deals shuffled samples out evenly. ``dirichlet:A`` draws for each class the clients' shares from a symmetric
    Dirichlet distribution of concentration A (Hsu et al. 2019): the smaller A, the fewer classes a client has. The
    parts depend on the arguments alone. Raises UsageError for another ``partition`` and for too few samples.
    """
    if len(y) < num_clients:
        raise UsageError(f"{len(y)} samples are too few for --num-clients {num_clients}")
    # The legacy generator, because its stream is frozen: clients on different machines must agree on the cut.
    random = np.random.RandomState(seed)
    if partition == "iid":
        return list(torch.from_numpy(random.permutation(len(y))).tensor_split(num_clients))
    concentration = _concentration(partition)
    labels = y.numpy()
    for _ in range(MOST_DRAWS):
        parts: list[list[Any]] = [[] for _ in range(num_clients)]
        for label in np.unique(labels):
            members = random.permutation(np.flatnonzero(labels == label))
            shares = random.dirichlet(np.full(num_clients, concentration))
            cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for part, piece in zip(parts, np.split(members, cuts), strict=True):
                part.append(piece)
        indices = [torch.from_numpy(np.sort(np.concatenate(part))) for part in parts]
        if all(len(part) for part in indices):
            return indices
    raise UsageError(f"--partition {partition} leaves a client without samples: use a larger number or fewer clients")


def _concentration(partition: str) -> float:
    kind, _, number = partition.partition(":")
    try:
        concentration = float(number)
    except ValueError:
        concentration = math.nan
    if kind != "dirichlet" or not 1e-3 <= concentration <= 1e6:
        raise UsageError(f"--partition {partition!r} is neither iid nor dirichlet:A with A from 0.001 to 1000000")
    return concentration


def _load_whole(dataset: str, data_dir: Path | None, split: str) -> Data:
    if dataset == "digits":
        return _read_digits(split)
    if dataset not in PUBLISHED:
        raise UsageError(f"there is no data set {dataset!r}: choose from {', '.join(DATASETS)}")
    published = PUBLISHED[dataset]
    folder = (data_dir or Path("data")) / published.folder
    paths = [folder / name for name in (published.train if split == "train" else published.test)]
    if not all(_present(path) for path in paths):
        _download(dataset, published, folder, paths)
    return _read_cifar(paths) if dataset == "cifar10" else _read_idx_pair(paths[0], paths[1])


def to_be_fetched(dataset: str, data_dir: Path | None) -> Path | None:
    """Where the test files of a published data set will be fetched to; None where there is nothing to fetch."""
    published = PUBLISHED.get(dataset)
    if published is None:
        return None
    folder = (data_dir or Path("data")) / published.folder
    return None if all(_present(folder / name) for name in published.test) else folder


# --- digits ----------------------------------------------------------------------------------------------------------


def _read_digits(split: str) -> Data:
    """scikit-learn's 8×8 digits as (N, 1, 28, 28); a fixed fifth of them is the test split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NotInstalled("the data set digits needs scikit-learn", "demo") from error
    digits = load_digits()
    images = torch.from_numpy(digits.data).reshape(-1, 1, 8, 8).to(torch.float32) / 16  # the brightest
    # nearest, because it only copies numbers: the same bits on every machine
    x = functional.interpolate(images, size=(28, 28), mode="nearest")
    order = np.random.RandomState(0).permutation(len(x))
    held_out = len(x) // 5
    mine = np.sort(order[:held_out] if split == "test" else order[held_out:])
    return x[mine], torch.from_numpy(digits.target[mine]).to(torch.int64)


# --- published files -------------------------------------------------------------------------------------------------


def _zipped(path: Path) -> Path:
    return path.with_name(path.name + ".gz")


def _present(path: Path) -> bool:
    return path.exists() or _zipped(path).exists()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.exists() else gzip.decompress(_zipped(path).read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def _download(dataset: str, published: Published, folder: Path, paths: list[Path]) -> None:
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    try:
        for archive in published.archives:
            if archive.url.endswith(".tar.gz"):
                download_and_extract_archive(archive.url, str(folder.parent), md5=archive.md5)
            else:
                download_url(archive.url, str(folder), md5=archive.md5)
    except (OSError, RuntimeError) as error:  # RuntimeError: what came has another digest
        wanted = ", ".join(path.name for path in paths)
        sources = " ".join(archive.url for archive in published.archives)
        raise UsageError(
            f"no {dataset} in {folder}, and no download ({error}): put {wanted} there (or with .gz), from {sources}"
        ) from error


def _read_idx(path: Path, dimensions: int) -> Any:
    """An array of unsigned bytes in the IDX format: 0, 0, 8, the number of dimensions, their sizes, the numbers."""
    content = _read_bytes(path)
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + math.prod(shape):
        raise UsageError(f"{path} is not an IDX file of {dimensions}-dimensional bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_idx_pair(images: Path, labels: Path) -> Data:
    x, y = _read_idx(images, 3), _read_idx(labels, 1)
    if len(x) != len(y) or len(x) == 0:
        raise UsageError(f"{images} has {len(x)} images, {labels} {len(y)} labels")
    return _scaled(x[:, None]), torch.from_numpy(y.astype(np.int64))


def _read_cifar(paths: list[Path]) -> Data:
    """(N, 3, 32, 32) from records of one byte of label and 3072 bytes of pixels."""
    record = 1 + 3 * 32 * 32
    contents = []
    for path in paths:
        content = _read_bytes(path)
        if len(content) == 0 or len(content) % record:
            raise UsageError(f"{path} does not consist of records of {record} bytes")
        contents.append(np.frombuffer(content, np.uint8).reshape(-1, record))
    records = np.concatenate(contents)
    return _scaled(records[:, 1:].reshape(-1, 3, 32, 32)), torch.from_numpy(records[:, 0].astype(np.int64))


def _scaled(pixels: Any) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32)) / 255
