"""A sum cut by ranges of a model's elements: each range is reduced by itself, wherever that is.

A *range* of a model is a model too, of the runs of the tensors that lie in it, flat, under their names. It begins with
a block of the sum (``bins``), so a range of a sum is a sum over that model, whose blocks are the whole one's: what is
merged and rounded there has the bits that the whole would have. What is no float is cut by itself, for its places
have nothing to do with blocks.

What is no sum, but goes by ranges too (``Strategy.by_range``), is cut as updates: there too it is one state.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch

from flserver.aggregation import cuts
from flserver.aggregation.bins import BLOCK
from flserver.aggregation.parts import ALIGNED
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.aggregation.strategy import Strategy
from flserver.aggregation.sums import ExactSum, describe
from flserver.models.state import Pieces, State, check_same_layout, raw_bytes, state_bytes, state_over, unset_state


class Range(NamedTuple):
    """``blocks`` of the floating-point elements, and ``places`` of all others' elements, each from the first to before
    the last."""

    blocks: range
    places: range


class Run(NamedTuple):
    """The elements of the tensor ``name`` that lie in a range, from ``start`` to before ``stop``."""

    name: str
    start: int
    stop: int


def ranges(model: State, count: int) -> list[Range]:
    """At most ``count`` ranges that have all of a model, each about as much; none is empty. The same for all models of
    the same layout."""
    blocks = -(-sum(_aligned(tensor.numel()) for tensor in model.values() if tensor.is_floating_point()) // BLOCK)
    places = sum(tensor.numel() for tensor in model.values() if not tensor.is_floating_point())
    made = [Range(_share(blocks, number, count), _share(places, number, count)) for number in range(count)]
    return [one for one in made if one.blocks or one.places]


def runs(kinds: Mapping[str, tuple[torch.dtype, torch.Size]], within: Range) -> Iterator[Run]:
    """What of each tensor lies in a range, in the model's order; ``kinds`` are dtype and shape by name."""
    elements = range(within.blocks.start * BLOCK, within.blocks.stop * BLOCK)
    floats = others = 0
    for name, (dtype, shape) in kinds.items():
        count = shape.numel()
        begin, there = (floats, elements) if dtype.is_floating_point else (others, within.places)
        start, stop = max(there.start - begin, 0), min(there.stop - begin, count)
        if start < stop:
            yield Run(name, start, stop)
        if dtype.is_floating_point:
            floats += _aligned(count)
        else:
            others += count


def in_range(model: State, within: Range) -> State:
    """The model of a range, over the whole model's memory where that is contiguous."""
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in model.items()}
    return {run.name: model[run.name].reshape(-1)[run.start : run.stop] for run in runs(kinds, within)}


def sum_of(strategy: Strategy) -> ExactSum | None:
    """The exact sum whose mean is all that a strategy makes of it, which goes by ranges; None where the strategy is no
    sum, or one that only itself can read, or makes more of it: that is made of whole ones."""
    if isinstance(strategy, FedAvg) and strategy.splits and type(strategy).finish is FedAvg.finish:
        return strategy.exact_sum
    return None


def cut(total: ExactSum, within: Range) -> Pieces:
    """What a sum has in a range, for a sum over the range's model (``cuts.cut``)."""
    kinds = total.tensor_kinds
    layout = {run.name: (kinds[run.name][0], [run.stop - run.start]) for run in runs(kinds, within)}
    return cuts.cut(total, within.blocks, within.places, describe(layout))


def sum_over(model: State, its: Iterable[Pieces]) -> ExactSum:
    """The sum over a range, of which only the mean is to be made: ``model`` is the range's, ``its`` are what each sum
    has there. Raises UsageError for one of another range's."""
    total = ExactSum(model)
    for one in its:
        cuts.take(total, one)
    return total


class Counted(NamedTuple):
    """An update that counts, of which client, with how many samples."""

    client_id: str
    samples: int
    update: State


def cut_updates(updates: Iterable[Counted], within: Range) -> State:
    """What updates have in a range: ``numbers``, for each a row of bytes, and ``who`` says whose they are."""
    listed = list(updates)
    size = state_bytes(in_range(listed[0].update, within)) if listed else 0
    numbers = torch.empty(len(listed), size, dtype=torch.uint8)
    for row, one in zip(numbers, listed, strict=True):
        there = in_range(one.update, within)
        for name, tensor in state_over(raw_bytes(row), there).items():
            tensor.copy_(there[name])
    who = json.dumps([[one.client_id, one.samples] for one in listed]).encode()
    return {"who": torch.frombuffer(bytearray(who), dtype=torch.uint8), "numbers": numbers}


def made(strategy: Strategy, model: State, its: Iterable[State]) -> State:
    """What ``strategy`` makes of all updates in a range: ``model`` is the range's, ``its`` have all that count, of
    each client one. Raises what the strategy raises."""
    found: list[tuple[str, int, torch.Tensor]] = []
    for one in its:
        who = json.loads(bytes(raw_bytes(one["who"])))
        found += [(client_id, n, row) for (client_id, n), row in zip(who, one["numbers"], strict=True)]
    strategy.begin(model)
    for _, n, row in sorted(found, key=lambda one: one[0]):
        strategy.add(state_over(raw_bytes(row), model), n)
    new = strategy.finish()
    check_same_layout(model, new, "the strategy's new model")
    return {name: new[name].detach().contiguous() for name in model}


def unset_like(layout: State) -> State:
    """A model of that layout, with whatever is in its memory: what ``put`` fills."""
    kinds = {name: tensor.dtype for name, tensor in layout.items()}
    return unset_state(kinds, {name: tensor.shape for name, tensor in layout.items()})


def put(whole: State, within: Range, part: State) -> None:
    """Write a range's tensors to where they belong in the ``whole``, whose tensors are contiguous."""
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in whole.items()}
    for run in runs(kinds, within):
        whole[run.name].view(-1)[run.start : run.stop] = part[run.name]


def _aligned(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED


def _share(count: int, number: int, of: int) -> range:
    return range(count * number // of, count * (number + 1) // of)
