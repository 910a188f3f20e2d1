"""Models of many kinds from the server's template to both kinds of trainers and back: plain pickle, and flclient."""

import functools
import pickle

import pytest
import torch
from torch import Tensor, nn

from flserver.aggregation.checks import Inspection, inspect
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.errors import UsageError
from flserver.models.architectures import build
from flserver.models.checkpoint_format import read, serialize
from flserver.models.state import State, as_tensor, state_of, tied_names, write_state
from flserver.models.training import Trainer, TrainingPolicy
from flserver.process.prepare import template_of
from flserver.wire.messages import Update, decode
from flserver.wire.pickles import PickleLimits
from flserver.wire.template import Template

SERVED = ("weight_norm", "spectral_norm", "dry_run", "odd", "everything", "recurrent")


def spec(name: str) -> str:
    return f"tests.models.zoo:{name}"


@functools.cache
def served(name: str) -> Template:
    """A model with hooks is read back in a process of its own, which takes seconds: once."""
    return template_of(build(spec(name), 1), spec(name))


def sent(name: str) -> tuple[nn.Module, Template, State]:
    """A model of the kind, how it goes on the wire with other numbers than it was made with, and these numbers."""
    module, template = build(spec(name), 1), served(name).copy()
    state = another(module)
    write_state(template.module, state)
    return module, template, state


def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(30, 784, generator=torch.Generator().manual_seed(2))
    return x, (x[:, 0] * 10).long()


def another(module: nn.Module) -> State:
    """A state that is not the one in the template: what a round's broadcast writes into it."""
    state = state_of(module)
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.mul_(0.9)
    return state


def received(body: bytes, state: State, module: nn.Module) -> tuple[State, Inspection]:
    """What the server makes of an answer to ``state``."""
    update = decode(memoryview(body), from_client=True, pickles=PickleLimits())
    assert isinstance(update, Update)
    tensors = {name: as_tensor(view) for name, view in update.model.tensors.items()}
    return tensors, inspect(tensors, state, tied_names(module))


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_trainer_computes_with_what_was_sent_and_its_answer_counts(name: str, protocol: int) -> None:
    module, template, state = sent(name)
    trained = pickle.loads(template.buffer)["model"]
    assert trained.training
    module.load_state_dict(state)
    x, y = data()
    assert torch.equal(trained.eval()(x), module.eval()(x))
    trained.train()
    before = trained.state_dict()["out.weight"].clone()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    torch.autograd.backward(nn.functional.nll_loss(trained(x), y))
    optimizer.step()
    assert not torch.equal(trained.state_dict()["out.weight"], before)
    body = pickle.dumps({"header": "<MODEL>", "id": 3, "model": trained}, protocol)
    tensors, inspection = received(body, state, module)
    assert inspection.rejection is None
    for key, tensor in trained.state_dict().items():
        assert torch.equal(tensors[key], tensor), key


@pytest.mark.parametrize("name", SERVED)
def test_flclient_trains_what_was_sent_and_its_answer_counts(name: str) -> None:
    module, template, state = sent(name)
    mine = Template(bytearray(template.buffer))
    policy = TrainingPolicy(epochs=2, learning_rate=0.1, batch_size=None, seed=0)
    trainer = Trainer(build(spec(name), 2), data(), data(), policy, "1", torch.device("cpu"))
    trained = trainer.train(mine.module, 1)
    write_state(mine.module, trained.state)
    tensors, inspection = received(b"".join(mine.answer(id=3)), state, module)
    assert inspection.rejection is None
    for key, tensor in trained.state.items():
        assert torch.equal(tensors[key], tensor), key
    assert any(not torch.equal(tensors[key], state[key]) for key in state)


@pytest.mark.parametrize("name", SERVED)
def test_the_mean_of_two_of_them_is_a_model_of_the_kind_that_a_checkpoint_holds(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    module = build(spec(name), 1)
    state, strategy = state_of(module), FedAvg()
    strategy.begin(state)
    for _ in range(2):
        strategy.add(another(module), 5)
    mean = strategy.finish()
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in mean.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in state.items()
    }
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"".join(serialize(mean, {})))
    stored, _ = read(path, None)
    for key, tensor in mean.items():
        assert torch.equal(stored[key], tensor), key
    module.load_state_dict(stored)


def test_a_parametrized_model_cannot_be_sent_and_flclient_trains_one_all_the_same() -> None:
    """torch has no pickle of it, whoever the server is; a server may have the same tensors in modules of its own."""
    name = spec("parametrized")
    module = build(name, 1)
    with pytest.raises(UsageError) as caught:
        template_of(module, name)
    assert "cannot be pickled: body" in str(caught.value)
    assert "parametriz" in str(caught.value)
    plain = nn.Module()
    for key, tensor in module.state_dict().items():
        *places, last = key.split(".")
        holder = plain
        for place in places:
            if not hasattr(holder, place):
                holder.add_module(place, nn.Module())
            holder = getattr(holder, place)
        holder.register_buffer(last, tensor.clone())
    template = Template.of({"header": "<MODEL>", "model": plain})
    policy = TrainingPolicy(epochs=1, learning_rate=0.1, batch_size=None, seed=0)
    trained = Trainer(build(name, 2), data(), data(), policy, "1", torch.device("cpu")).train(template.module, 1)
    write_state(template.module, trained.state)
    assert received(b"".join(template.answer(id=3)), state_of(module), module)[1].rejection is None


def test_a_lazy_model_without_a_dry_run_is_refused_with_the_cure() -> None:
    with pytest.raises(UsageError, match="has no shape yet: a lazy module needs a dry run in the factory"):
        build(spec("lazy"), 1)


def test_a_buffer_that_is_not_in_the_state_travels_and_is_the_trainers_own_afterwards() -> None:
    module, template, _ = sent("odd")
    assert "body.0.shift" not in template.module.tensors
    there = pickle.loads(template.buffer)["model"]
    assert torch.equal(there.body[0].shift, module.body[0].shift)  # type: ignore[index, union-attr]


def test_a_hook_that_pickle_does_not_carry_is_refused_before_anything_is_on_record() -> None:
    module = build(spec("weight_norm"), 1)
    module.out.weight.register_hook(torch.neg)  # type: ignore[union-attr, operator]
    with pytest.raises(UsageError, match=r"--model x: out\.weight\.backward_hooks .*neg does not survive plain pickle"):
        template_of(module, "x")
    module = build(spec("weight_norm"), 1)
    module.out.register_forward_hook(lambda *given: None)  # type: ignore[union-attr, operator]
    with pytest.raises(UsageError, match=r"--model x cannot be pickled: out\.forward_hooks .*lambda"):
        template_of(module, "x")
