"""Training without sockets."""

import math
from typing import ClassVar

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flclient.cli import _answer
from flserver.errors import UsageError
from flserver.models.architectures import DEFAULT_MODEL, build, wire_module
from flserver.models.state import read_state, state_of, write_state
from flserver.models.training import Measured, Trained, Trainer, TrainingPolicy
from flserver.wire.template import Template
from tests.models.modules import FORMS

CPU = torch.device("cpu")


class Watch(nn.Module):
    """Keeps the batches that it was trained on."""

    seen: ClassVar[list[torch.Tensor]] = []

    def __init__(self):
        super().__init__()
        self.inner = build(DEFAULT_MODEL, 1)
        self.norm = nn.BatchNorm1d(784)

    def forward(self, x):
        if self.training:
            self.seen.append(x)
        return self.inner(self.norm(x))


def policy(**given):
    return TrainingPolicy(**({"epochs": 8, "learning_rate": 0.7, "batch_size": None, "seed": 0} | given))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(41, 784, generator=generator)
    return x, (x[:, 0] * 10).long()


def sent(module):
    return Template.of({"header": "<MODEL>", "model": wire_module(module)})


def trainer(data, module=None, client_id="1", **given):
    module = module or build(DEFAULT_MODEL, 5)
    return Trainer(module, data, (data[0][:20], data[1][:20]), policy(**given), client_id, CPU)


def same(state, other):
    return all(torch.equal(state[name], other[name]) for name in state)


def test_full_batch_training_is_plain_gradient_descent_from_the_received_model(data):
    received = build(DEFAULT_MODEL, 1)
    template = sent(received)
    before = bytes(template.buffer)
    trained = trainer(data).train(template.module, 1)
    assert bytes(template.buffer) == before

    model = build(DEFAULT_MODEL, 1)
    x, y = data
    expected = [functional.nll_loss(model(x), y).item(), (model(x[:20]).argmax(1) == y[:20]).float().mean().item()]
    assert [trained.received.loss, trained.received.accuracy] == pytest.approx(expected)
    for _ in range(8):
        gradients = torch.autograd.grad(functional.nll_loss(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.7 * gradient
    for name, tensor in model.state_dict().items():
        assert torch.allclose(trained.state[name], tensor, atol=1e-5), name
    expected = [functional.nll_loss(model(x), y).item(), (model(x[:20]).argmax(1) == y[:20]).float().mean().item()]
    assert [trained.trained.loss, trained.trained.accuracy] == pytest.approx(expected, rel=1e-3)


def test_every_round_starts_from_what_was_received(data):
    template = sent(build(DEFAULT_MODEL, 1))
    client = trainer(data)
    first = {name: tensor.clone() for name, tensor in client.train(template.module, 1).state.items()}
    assert same(first, client.train(template.module, 2).state)


class Copies(TorchDispatchMode):
    """Counts the bytes that are copied from one tensor to another, those of small tensors left out."""

    NAMES = ("copy_", "_foreach_copy_", "clone", "_to_copy", "_reshape_copy", "cat", "stack")

    def __init__(self, least):
        super().__init__()
        self.bytes, self._least = 0, least

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in self.NAMES:
            self.bytes += sum(
                t.nbytes for t in tree_leaves(made) if isinstance(t, torch.Tensor) and t.nbytes >= self._least
            )
        return made


def test_from_a_model_to_the_upload_its_numbers_are_copied_twice(data):
    template = sent(build(DEFAULT_MODEL, 1))
    client, sending = trainer(data), []

    class Connection:
        def upload(self, pieces):
            sending.extend(pieces)

    weights = read_state(template.module)["fc1.weight"]
    before = weights.clone()
    with Copies(weights.nbytes) as copies:
        _answer(client, Connection(), template, 1, 1)
    assert copies.bytes == 2 * weights.nbytes
    assert not torch.equal(weights, before), "what is sent is what was trained"
    assert all(piece.obj is template.buffer.obj for piece in sending if len(piece) >= weights.nbytes)
    assert sum(map(len, sending)) > weights.nbytes


@pytest.mark.parametrize("given", [{"batch_size": 10}, {"batch_size": None}])
def test_the_order_of_batches_and_dropout_depend_on_seed_client_and_count_alone(data, given):
    def module():
        return nn.Sequential(nn.Dropout(0.3), build(DEFAULT_MODEL, 1))

    template = sent(module())

    def result(client_id="1", seed=0, count=1):
        return trainer(data, module(), client_id, seed=seed, **given).train(template.module, count).state

    first = result()
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    assert same(first, result())
    assert torch.equal(torch.rand(1), expected), "the caller's random state moved"
    for other in (result(client_id="2"), result(seed=1), result(count=2)):
        assert not same(first, other)


def test_batches_are_of_nearly_equal_size_and_cover_every_sample(data):
    Watch.seen.clear()
    trainer(data, Watch().eval(), batch_size=10, epochs=1).train(sent(Watch()).module, 1)
    assert [len(x) for x in Watch.seen] == [9, 8, 8, 8, 8]
    together = torch.cat(Watch.seen)
    assert not torch.equal(together, data[0])
    assert sorted(row.tolist() for row in together) == sorted(row.tolist() for row in data[0])


def test_buffers_travel_as_parameters_do(data):
    def module():
        return nn.Sequential(nn.BatchNorm1d(784), build(DEFAULT_MODEL, 1))

    template = sent(module())
    trained = trainer(data, module()).train(template.module, 1)
    write_state(template.module, trained.state)
    assert read_state(template.module)["0.num_batches_tracked"].item() == 8
    assert same(read_state(template.module), trained.state)


class Net(nn.Module):
    """What ``form`` makes of ten scores, with what ``before`` does to the pixels."""

    def __init__(self, before, form=None):
        super().__init__()
        self.before, self.form = before, form
        self.head = nn.Linear(784, 10)

    def forward(self, x):
        scores = self.head(self.before(x))
        return scores if self.form is None else self.form(scores)


@pytest.mark.parametrize("form", FORMS)
def test_a_model_trains_to_the_same_weights_whatever_form_its_outputs_have(data, form):
    plain, shaped = Net(nn.Identity()), Net(nn.Identity(), FORMS[form])
    template = sent(plain)
    expected = trainer(data, plain, batch_size=10).train(template.module, 1)
    client = trainer(data, shaped, batch_size=10)
    client.rehearse()
    result = client.train(template.module, 1)
    assert same(result.state, expected.state)
    assert (result.received, result.trained) == (expected.received, expected.trained)


@pytest.mark.parametrize(
    ("samples", "batch_size", "batches"),
    [(2, None, 1), (3, 2, 1), (5, 2, 2), (41, 2, 20), (41, 40, 2), (5, 4, 2), (7, 3, 3), (3, 9, 1)],
)
def test_batchnorm_trains_on_any_number_of_samples_but_one(data, samples, batch_size, batches):
    def module():
        return Net(nn.BatchNorm1d(784))

    some = (data[0][:samples], data[1][:samples])
    client = trainer(some, module(), batch_size=batch_size, epochs=1)
    client.rehearse()
    trained = client.train(sent(module()).module, 1)
    assert trained.state["before.num_batches_tracked"].item() == batches
    assert math.isfinite(trained.trained.loss)


@pytest.mark.parametrize("normalized", [nn.BatchNorm1d(784), nn.Sequential(nn.BatchNorm1d(784), nn.BatchNorm1d(784))])
@pytest.mark.parametrize(
    ("samples", "batch_size", "way_out"),
    [
        (41, 1, "; give --batch-size 2 or more"),
        (2, 1, "; give --batch-size 2 or more"),
        (1, None, "; it needs two training samples or more"),
        (1, 5, "; it needs two training samples or more"),
    ],
)
def test_batchnorm_on_one_sample_is_one_clear_line_before_anything(data, normalized, samples, batch_size, way_out):
    some = (data[0][:samples], data[1][:samples])
    with pytest.raises(UsageError) as told:
        trainer(some, Net(normalized), batch_size=batch_size).rehearse()
    assert str(told.value).startswith(
        "the model cannot be trained on 1 sample at a time: ValueError: Expected more than 1"
    )
    assert str(told.value).endswith(way_out)
    assert "\n" not in str(told.value)


class FailsInTraining(nn.Module):
    def forward(self, x):
        if self.training:
            raise RuntimeError("a size that\nthe auxiliary head does not take")
        return x


class OtherInTraining(nn.Module):
    """Classifies in evaluation; in training it gives what a detector gives."""

    def forward(self, x):
        return {"loss_box": x.mean()} if self.training else x[:, :10]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Net(FailsInTraining()), "on 2 samples at a time: RuntimeError: a size that the auxiliary head does not take"),
        (OtherInTraining(), "on 2 samples at a time: ValueError: optimizer got an empty parameter list"),
        (
            nn.Sequential(nn.Linear(784, 784), OtherInTraining()),
            "the model does not turn its inputs into one row of classes a sample, but into dict",
        ),
        (Net(nn.Identity()).requires_grad_(False), "does not require grad"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), "optimizer got an empty parameter list"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_line(data, module, reason):
    with pytest.raises(UsageError, match=r"^the model cannot be trained on 2 samples at a time: ") as told:
        trainer(data, module).rehearse()
    assert reason in str(told.value)
    assert "\n" not in str(told.value)


class Counting(nn.Module):
    """Puts a new tensor in its buffer's place at each step, and draws numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.tensor(0.0), persistent=False)

    def forward(self, x):
        if self.training:
            self.steps = self.steps + 1
        return x * torch.rand(1)


def test_nothing_stays_of_a_rehearsal(data):
    module = nn.Sequential(Counting(), nn.BatchNorm1d(784), build(DEFAULT_MODEL, 5))
    before = {name: tensor.clone() for name, tensor in [*module.named_buffers(), *module.named_parameters()]}
    client = trainer(data, module)
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    client.rehearse()
    assert torch.equal(torch.rand(1), expected), "the caller's random state moved"
    assert same(before, dict([*module.named_buffers(), *module.named_parameters()]))
    assert all(parameter.grad is None for parameter in module.parameters())


def googlenet():
    return torchvision.models.googlenet(weights=None, init_weights=False, num_classes=10)


def inception():
    """With an auxiliary head that takes images as small as evaluation does: 299×299 pixels take a while."""
    module = torchvision.models.inception_v3(weights=None, init_weights=False, num_classes=10)
    module.AuxLogits = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(768, 10))
    return module


@pytest.mark.parametrize(
    ("module", "size", "heads"),
    [(googlenet, 32, ("aux1.fc2.weight", "aux2.fc2.weight")), (inception, 80, ("AuxLogits.2.weight",))],
)
def test_torchvisions_models_train_with_their_auxiliary_heads(module, size, heads):
    x, y = torch.rand(2, 3, size, size), torch.tensor([0, 1])
    client = Trainer(module(), (x, y), (x, y), policy(epochs=1, learning_rate=0.01), "1", CPU)
    client.rehearse()
    template = sent(module())
    received = read_state(template.module)
    trained = client.train(template.module, 1)
    for part in ("fc.weight", *heads):
        assert not torch.equal(trained.state[part], received[part]), f"{part} takes part"


def test_a_network_of_torchvisions_on_one_sample_is_told_at_once():
    x, y = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    with pytest.raises(UsageError, match=r"on 1 sample at a time: ValueError: Expected more than 1 value per channel"):
        Trainer(googlenet(), (x[:1], y[:1]), (x, y), policy(), "1", CPU).rehearse()


def test_inception_on_images_that_are_too_small_for_its_auxiliary_head_is_told_at_once():
    module = torchvision.models.inception_v3(weights=None, init_weights=False, num_classes=10)
    x, y = torch.rand(2, 3, 80, 80), torch.tensor([0, 1])
    client = Trainer(module, (x, y), (x, y), policy(), "1", CPU)  # evaluation takes them
    with pytest.raises(UsageError, match=r"on 2 samples at a time: RuntimeError: .*[Oo]utput size is too small"):
        client.rehearse()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Linear(784, 10), "the server's model is not --model: it lacks fc1.weight"),
        (build(DEFAULT_MODEL, 0).double(), "fc1.weight has dtype float64 where float32 is needed"),
    ],
)
def test_another_model_than_the_local_one_is_a_usage_error(data, module, reason):
    with pytest.raises(UsageError, match=reason):
        trainer(data).train(sent(module).module, 1)


def test_data_that_the_model_does_not_take_is_a_usage_error(data):
    with pytest.raises(UsageError, match="does not take the training data"):
        Trainer(build(DEFAULT_MODEL, 0), (data[0][:, :9], data[1]), data, policy(), "1", CPU)
    with pytest.raises(UsageError, match="the test data has the label 10"):
        Trainer(build(DEFAULT_MODEL, 0), data, (data[0], data[1] + 10 - data[1].max()), policy(), "1", CPU)


def test_only_finite_metrics_are_reported():
    measured = Trained(
        state=state_of(nn.Linear(1, 1)),
        received=Measured(loss=1.5, accuracy=0.5),
        trained=Measured(loss=math.nan, accuracy=0.25),
        seconds=2.0,
    )
    assert measured.metrics() == {
        "loss": {"received": 1.5},
        "accuracy": {"received": 0.5, "trained": 0.25},
        "seconds": {"trained": 2.0},
    }
