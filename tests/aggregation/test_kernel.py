"""Which loops a sum runs on: numba's and numpy's have the same bits, and numba's cache is in a folder of one's own."""

import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flserver import files
from flserver.aggregation import kernel
from flserver.aggregation.bins import BLOCK
from flserver.aggregation.sums import ExactSum
from tests.aggregation.exact import same_bits


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """What one test decides is not the process's."""
    decided = kernel.load
    yield
    kernel.load = decided


def numbers(dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Whole blocks of usual numbers, of numbers with every exponent, subnormal ones, and of whole ones."""
    generator = torch.Generator().manual_seed(seed)
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    info = torch.iinfo(kind)
    usual = (torch.randn(BLOCK + 9, generator=generator) * 0.05).to(dtype)
    every = torch.randint(info.min, info.max, (BLOCK,), generator=generator, dtype=kind).view(dtype)
    every = torch.where(every.to(torch.float64).abs() <= 2.0**970, every, torch.zeros_like(every))  # also NaN
    subnormal = torch.randint(0, 100, (BLOCK,), generator=generator, dtype=kind).view(dtype)
    whole = torch.randint(-3, 4, (BLOCK,), generator=generator).to(dtype)
    return torch.cat([usual, every, subnormal, whole])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_numba_and_numpy_give_the_same_bits(dtype: torch.dtype) -> None:
    model = {"w": numbers(dtype, 0)}
    sums, means = [], []
    for loops in (kernel.load(), kernel.Plain()):
        kernel.load = lambda loops=loops: loops
        made = ExactSum(model)
        for seed, n in ((1, 1), (2, 1), (3, 2), (4, 2**29 - 5)):
            made.add({"w": numbers(dtype, seed)}, n)
            means.append(made.mean()["w"])
        made.subtract({"w": numbers(dtype, 2)}, 1)
        sums.append(made)
    assert sums[0].digest() == sums[1].digest()
    assert all(same_bits(one, other) for one, other in zip(means[:4], means[4:], strict=True))


def test_without_numba_the_loops_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def none(name: str, *others: object, **more: object) -> object:
        if name == "numba":
            raise ImportError(name)
        return imported(name, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", none)
    assert kernel.load.__wrapped__().name == "numpy"


def test_where_the_cache_cannot_be_written_numba_compiles_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[Path | None] = []

    def compiled(cache: Path | None) -> kernel.Loops:
        tried.append(cache)
        if cache is not None:
            raise OSError("no space left on device")
        return kernel.Plain()

    monkeypatch.setattr(files, "own_cache", lambda name: tmp_path)
    monkeypatch.setattr(kernel, "Compiled", compiled)
    kernel.load.__wrapped__()
    assert tried == [tmp_path, None]


def test_who_waits_for_what_is_compiled_is_told_and_nobody_where_the_cache_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import numba

    there = kernel.load()  # compiled in this process: nothing is below
    assert isinstance(there, kernel.Compiled)
    monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)  # type: ignore[attr-defined]
    caplog.set_level("INFO", logger="flserver")
    functions = [there._add, there._settle, there._mean, there._distances, there._short, there._take]
    for function in functions:
        monkeypatch.setattr(function, "_cache", function._cache)
    kernel.Compiled(tmp_path)
    assert caplog.messages == [kernel.COMPILING]
    for function in functions:
        folder = Path(function._cache.cache_path)
        folder.mkdir(parents=True, exist_ok=True)
        module = function.py_func.__module__.rpartition(".")[2]
        (folder / f"{module}.{function.__name__}-1.py311.nbi").touch()
    caplog.clear()
    kernel.Compiled(tmp_path)
    assert caplog.messages == []


def test_it_is_decided_once_a_process() -> None:
    assert kernel.load() is kernel.load()
    assert kernel.load().name == "numba"
