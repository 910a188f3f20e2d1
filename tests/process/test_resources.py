"""What a connection may use follows from the model: whichever it is, its trainers' answers are read, bombs are not."""

import pickle

import pytest
import torch
import torchvision.models as torchvision_models
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from flserver.errors import PickleRefused
from flserver.models.architectures import build, wire_module
from flserver.models.state import state_of
from flserver.network.context import Limits
from flserver.process.resources import MOST_MODELS, PICKLE_SLACK, capacity_of, limits_of, places_of
from flserver.settings import server_settings
from flserver.wire.messages import Update, decode
from flserver.wire.template import Template
from tests.examples import times
from tests.models.tiny import Tiny
from tests.models.zoo import adapters, one_buffer, recurrent


def limits_for(module: nn.Module, **options: object) -> Limits:
    template = Template.of({"header": "<MODEL>", "model": wire_module(module)})
    network = server_settings(options).network
    return limits_of(network, template, state_of(module), sum(1 for _ in module.parameters()))


def answered(module: nn.Module, limits: Limits, protocol: int = 4) -> Update:
    """The update that a trainer with plain pickle makes of ``module``, as the server reads it."""
    body = pickle.dumps({"header": "<MODEL>", "id": 3, "model": module}, protocol)
    update = decode(memoryview(body), from_client=True, pickles=limits.pickles)
    assert isinstance(update, Update)
    assert list(update.model.tensors) == list(module.state_dict())
    return update


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
@times(0.15)
@given(st.sampled_from(torchvision_models.list_models(module=torchvision_models)))
@example("efficientnet_v2_l")
@example("densenet201")
def test_every_classification_model_of_torchvision_is_served_and_its_answers_are_read(name: str) -> None:
    """A part of the eighty, and the largest; ``--hypothesis-profile=thorough`` walks all of them."""
    with Tiny():
        module = build(f"torchvision:{name}", 0)
    answered(module, limits_for(module), protocol=2)  # which takes the most opcodes


def test_three_thousand_tensors_in_adapters_are_read() -> None:
    module = adapters(1000)
    assert len(module.state_dict()) > 3000
    answered(module, limits_for(module))


def test_a_model_of_many_parts_leaves_no_room_for_bombs() -> None:
    module = adapters(30)
    limits = limits_for(module)
    module.note = [None] * 200_000  # type: ignore[assignment]
    answered(module, limits)
    module.note = [None] * limits.pickles.opcodes  # type: ignore[assignment]
    with pytest.raises(PickleRefused, match="too many opcodes"):
        answered(module, limits)


def test_a_small_models_trainer_has_no_more_opcodes_for_large_ones() -> None:
    module = nn.Linear(2, 2)
    limits = limits_for(module)
    module.note = [None] * 260_000  # type: ignore[assignment]
    with pytest.raises(PickleRefused, match="too many opcodes"):
        answered(module, limits)


@pytest.mark.parametrize("tensors", [1, 2, 10, 64, 65, 200])
def test_a_message_may_hold_as_many_models_as_the_model_has_parameters_up_to_64(tensors: int) -> None:
    module = nn.ParameterList([torch.zeros(1000) for _ in range(tensors)])
    model = len(Template.of({"header": "<MODEL>", "model": wire_module(module)}).buffer)
    limits = limits_for(module)
    assert limits.pickle == max(2, min(tensors, MOST_MODELS)) * model + PICKLE_SLACK
    assert limits.usual == limits.kept == 2 * model + PICKLE_SLACK


@pytest.mark.parametrize(
    "module",
    [recurrent(), nn.Linear(784, 10), nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 10))],
    ids=["recurrent", "linear", "batch-norm"],
)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_weights_that_are_views_of_one_buffer_fit(module: nn.Module, protocol: int) -> None:
    limits = limits_for(module)
    body = pickle.dumps({"header": "<MODEL>", "id": 3, "model": one_buffer(module)}, protocol)
    assert limits.usual < len(body) <= limits.pickle or len(body) <= limits.usual
    answered(module, limits, protocol)


@pytest.mark.parametrize(
    ("descriptors", "options", "expected"),
    [
        (1 << 20, {}, (4096, 2048, 2048, 1024)),
        (1024, {}, (432, 2048, 378, 1024)),
        (20_000, {"max_connections": 16_000, "max_connections_per_address": 16_000}, (9920, 16_000, 8000, 8000)),
        (64, {}, (8, 2048, 7, 1024)),
        (1 << 20, {"max_connections": 9, "max_connections_per_address": 6}, (9, 6, 4, 3)),
        (1 << 20, {"max_clients_per_address": 5}, (4096, 2048, 2048, 5)),
    ],
)
def test_half_of_the_connections_are_places_for_clients_or_most_of_what_there_are_descriptors_for(
    descriptors: int, options: dict[str, int], expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (descriptors, descriptors))
    network = server_settings(options).network
    capacity, places = capacity_of(network), places_of(network)
    assert (capacity.at_once, capacity.an_address, places.in_all, places.an_address) == expected


def test_processes_that_serve_have_places_as_each_has_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (20_000, 20_000))
    network = server_settings({"max_connections": 40_000}).network
    assert [places_of(network, processes).in_all for processes in (1, 2, 4)] == [8680, 17_360, 20_000]


def test_what_the_operator_says_is_the_longest_message_and_what_is_kept_of_one() -> None:
    module = recurrent()
    usual = limits_for(module).usual
    limits = limits_for(module, max_update_size=5_000_000)
    assert (limits.pickle, limits.kept, limits.usual) == (5_000_000, 5_000_000, usual)
