"""One round's model, of updates that are the same bits everywhere: made in some order, split and number of threads.

As a program it prints the model's digest, on whatever processors, instructions and loops its environment leaves it.
"""

import functools
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from flserver.aggregation import FedAvg, State, kernel
from flserver.aggregation.checks import state_digest
from flserver.aggregation.sums import ExactSum

SIZES = (1, 2**20 + 1, 2**29 - 1, 12345)
SHAPES = {"w": (1100, 1000), "v": (3, 5, 7), "d": (5_000,), "h": (4097,), "b": (9_001,), "n": (9_000,), "flag": (33,)}
DTYPES = {"d": torch.float64, "h": torch.float16, "b": torch.bfloat16, "n": torch.int64, "flag": torch.bool}
SCALES = {"w": (-12, 3), "h": (-9, 4)}  # of the others there are more bits than two bins hold


@functools.cache
def update(client: int) -> State:
    """Numbers of many magnitudes, made of integers: no processor rounds any of them in its own way."""
    made, state = np.random.Generator(np.random.PCG64(client)), {}
    for name, shape in SHAPES.items():
        dtype, count = DTYPES.get(name, torch.float32), int(np.prod(shape))
        digits = made.integers(-(2**10), 2**10, count).astype(np.float64)
        scale = made.integers(*SCALES.get(name, (-60, 40)), count)
        if name in ("w", "v", "d"):
            digits += made.integers(0, 2**13, count) * 2.0**-13
        values = digits.astype(np.int64) % 5 if name in ("n", "flag") else np.ldexp(digits, scale)
        state[name] = torch.from_numpy(np.ascontiguousarray(values)).to(dtype).view(shape)
    return state


def by_fedavg(order: Sequence[int], threads: int) -> State:
    """By the strategy, as a server calls it: added by so many threads, as they come."""
    strategy = FedAvg()
    strategy.begin(update(99))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda client: strategy.add(update(client), SIZES[client]), order))
    return strategy.finish()


def by_parts(order: Sequence[int], parts: int) -> State:
    """By sums of so many parts of the updates, merged; another client was in one of them, and was taken out again."""
    sums = [ExactSum(update(99)) for _ in range(parts)]
    sums[0].add(update(50), 77)
    for place, client in enumerate(order):
        sums[place % parts].add(update(client), SIZES[client])
    while len(sums) > 1:
        sums[0].merge(sums.pop())
    sums[0].subtract(update(50), 77)
    return sums[0].mean()


def main() -> None:
    asked = json.loads(sys.argv[1])
    if cores := asked.get("cores"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(asked.get("torch_threads", 1))
    if not asked.get("numba", True):
        sys.modules["numba"] = None  # type: ignore[assignment]
    threads, parts, order = asked["threads"], asked["parts"], asked["order"]
    capability = torch.backends.cpu.get_cpu_capability()
    digests = [state_digest(by_fedavg(order, threads)), state_digest(by_parts(order, parts))]
    told = {"digests": digests, "loops": kernel.load().name, "cores": len(os.sched_getaffinity(0))}
    if told["loops"] == "numba":
        from numba.core.registry import cpu_target

        told["target"] = cpu_target.target_context.codegen().magic_tuple()[1]
    print(json.dumps(told | {"capability": capability}))


if __name__ == "__main__":
    main()
