"""What simulated trainers answer with: the model that they were sent, with the change or lie alone in it."""

import math

import pytest
import torch
from torch import nn

from flserver.models.architectures import build, payload_of, wire_module
from flserver.models.state import State, read_state
from flserver.simulation.answers import CHANGED, LARGEST_CHANGE, CannotLie, Model, Piece, spliced
from flserver.simulation.script import Lie, Member
from flserver.wire.messages import Update, decode
from flserver.wire.pickles import PickleLimits
from flserver.wire.template import Template


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.float16))


def sent(module: nn.Module) -> Model:
    return Model(bytearray(Template.of({"header": "<MODEL>", "model": wire_module(module)}, payload_of).buffer))


@pytest.fixture
def model() -> Model:
    return sent(build("neural_net_helper:NeuralNet", 0))


def read(pieces: list[Piece]) -> tuple[str, State]:
    update = decode(memoryview(b"".join(pieces)), from_client=True, pickles=PickleLimits())
    assert isinstance(update, Update)
    return update.client_id, read_state(update.model)


def answer(model: Model, lie: Lie | None = None, round: int = 1, seed: int = 5) -> State:
    client_id, state = read(model.answer(Member(id="17", samples=1, seed=seed, lie=lie), round))
    assert client_id == "17"
    return state


def test_an_echo_is_the_model_with_a_small_seeded_change(model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in read_state(model.template.module).items()}
    one = answer(model)
    moved = one["fc1.weight"] - before["fc1.weight"]
    assert torch.equal(one["fc1.bias"], before["fc1.bias"])
    assert 0 < int(moved.count_nonzero()) <= CHANGED
    assert float(moved.abs().max()) <= LARGEST_CHANGE * 1.01
    assert torch.equal(one["fc1.weight"], answer(model)["fc1.weight"])
    assert not torch.equal(one["fc1.weight"], answer(model, round=2)["fc1.weight"])
    assert not torch.equal(one["fc1.weight"], answer(model, seed=6)["fc1.weight"])
    after = read_state(model.template.module)
    assert all(torch.equal(before[name], after[name]) for name in before), "the received body is not written to"


@pytest.mark.parametrize(
    "module",
    [nn.Linear(784, 10), nn.Sequential(nn.Conv2d(3, 300, 3), nn.BatchNorm2d(300), nn.Linear(70_000, 2)), nn.LSTM(4, 4)],
)
def test_each_lie_is_the_one_that_is_meant(module: nn.Module) -> None:
    model = sent(module)
    before = {name: tensor.clone() for name, tensor in read_state(model.template.module).items()}
    for lie, number in (("nan", math.nan), ("huge", 1e30)):
        state = answer(model, lie)  # type: ignore[arg-type]
        wrong = [state[name][state[name] != tensor] for name, tensor in before.items()]
        (found,) = torch.cat([tensor.flatten() for tensor in wrong if tensor.numel()])
        assert math.isnan(found) if math.isnan(number) else found == torch.tensor(number)
    state = answer(model, "shape")
    (name,) = (name for name, tensor in before.items() if tensor.shape != state[name].shape)
    assert state[name].shape == (before[name].shape[0] - 1, *before[name].shape[1:])


@pytest.mark.parametrize("size", [2, 3, 255, 256, 257, 65535, 65536, 70000])
def test_a_shape_is_found_however_long_its_numbers_are_written(size: int) -> None:
    model = sent(nn.Linear(2, size))
    assert answer(model, "shape")["weight"].shape == (size - 1, 2)


def test_a_model_that_has_no_place_for_a_lie_says_so() -> None:
    with pytest.raises(CannotLie, match=r"no number that could be 1e\+30"):
        answer(sent(Half()), "huge")
    assert math.isnan(float(answer(sent(Half()), "nan")["weight"][0]))
    with pytest.raises(CannotLie, match="no tensor whose shape"):
        answer(sent(nn.Linear(2, 1, bias=False)), "shape")


def test_pieces_are_as_long_as_before_whatever_is_written_over() -> None:
    pieces: list[Piece] = [b"abc", b"", memoryview(b"defg"), b"h"]
    for at in range(8):
        for length in range(9 - at):
            new = b"12345678"[:length]
            expected = bytearray(b"abcdefgh")
            expected[at : at + length] = new
            assert b"".join(spliced(pieces, at, new)) == expected
