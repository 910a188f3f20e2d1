"""What plain pickle carries of a model, and what it does not by name."""

import functools
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from flserver.errors import UsageError
from flserver.models.architectures import wire_module
from flserver.models.carried import check_survival, hooks_of, what_is_not_pickled


def scale(module, inputs, output, by=2.0):
    return output * by


class Counts:
    """A hook with a state of its own."""

    def __init__(self, start):
        self.count = start
        self.kinds = {"a", "b", "c", "d", "e"}

    def __call__(self, module, inputs):
        self.count += 1


class Forgets(Counts):
    def __reduce__(self):
        return Counts, (self.count,)


class Keeps(nn.Linear):
    """Its hook is a method of itself."""

    def __init__(self):
        super().__init__(2, 2)
        self.register_forward_pre_hook(self.look)

    def look(self, module, inputs):
        self.seen = True


class Drops(nn.Linear):
    """What it is pickled with leaves its hooks out."""

    def __getstate__(self):
        return self.__dict__ | {"_forward_hooks": type(self._forward_hooks)()}


def with_hook(hook, kind="register_forward_hook", module=None):
    net = nn.Sequential(nn.Linear(2, 2), module or nn.Linear(2, 2))
    getattr(net[1], kind)(hook)
    return net


def message(net):
    return pickle.dumps({"header": "<MODEL>", "model": net})


def of_tensor(hook):
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].weight.register_hook(hook)
    return net


def test_hooks_are_told_by_place_and_kind():
    net = with_hook(scale)
    net.register_full_backward_pre_hook(print)
    net[0].bias.register_post_accumulate_grad_hook(print)
    assert hooks_of(net) == {
        "backward_pre_hooks": ["builtins.print"],
        "0.bias.post_accumulate_grad_hooks": ["builtins.print"],
        "1.forward_hooks": [f"{__name__}.scale"],
    }
    assert hooks_of(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2), nn.BatchNorm1d(2))) == {}


SURVIVE = {
    "a function": with_hook(scale),
    "a function with arguments": with_hook(functools.partial(scale, by=3.0)),
    "an object": with_hook(Counts(3), "register_forward_pre_hook"),
    "a method of the module": nn.Sequential(Keeps(), nn.Linear(2, 2)),
    "one for keywords": with_hook(functools.partial(scale, by=1.0), "register_forward_hook"),
}


@pytest.fixture(scope="module")
def read_back():
    """All of them in one model: each process takes seconds."""
    net = nn.ModuleDict({name.replace(" ", "-"): module for name, module in SURVIVE.items()})
    check_survival(net, message(wire_module(net)), "--model x")
    return net


@pytest.mark.parametrize("name", SURVIVE)
def test_what_survives_is_left_as_it_is(read_back, name):
    twin = wire_module(SURVIVE[name])
    assert hooks_of(twin) == hooks_of(SURVIVE[name]) != {}
    assert hooks_of(pickle.loads(message(twin))["model"]) == hooks_of(SURVIVE[name])


def test_a_method_of_the_module_is_the_copys_own_afterwards():
    net = nn.Sequential(Keeps())
    twin = wire_module(net)
    twin(torch.rand(1, 2))
    assert (hasattr(net[0], "seen"), hasattr(twin[0], "seen")) == (False, True)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (with_hook(scale, module=Drops(2, 2)), f"1.forward_hooks {__name__}.scale does not survive"),
        (with_hook(Forgets(3)), f"1.forward_hooks {__name__}.Forgets does not survive"),
        (of_tensor(scale), f"0.weight.backward_hooks {__name__}.scale does not survive"),
    ],
    ids=["a module that drops them", "an object that becomes another", "a tensor's"],
)
def test_what_does_not_survive_is_refused_by_name(net, reason):
    with pytest.raises(UsageError) as caught:
        check_survival(net, message(wire_module(net)), "--model x")
    assert str(caught.value).startswith(f"--model x: {reason} plain pickle")


def test_what_a_trainer_could_not_load_is_refused_with_its_reason(tmp_path, monkeypatch):
    net = with_hook(Counts(1), "register_forward_pre_hook")
    body = message(net).replace(b"Counts", b"Absent")
    with pytest.raises(UsageError) as caught:
        check_survival(net, body, "--model x")
    said = str(caught.value)
    assert said.startswith("--model x has hooks (1.forward_pre_hooks), and cannot be read back by plain pickle")
    assert "Absent" in said
    assert "\n" not in said


def test_what_the_models_own_modules_print_is_no_answer(tmp_path, monkeypatch):
    (tmp_path / "talks.py").write_text("print('[{}, []]')\ndef hook(*given): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import talks

    net = with_hook(talks.hook)
    check_survival(net, message(net), "--model x")


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (with_hook(lambda *given: None), "1.forward_hooks"),
        (with_hook(functools.partial(scale, by=lambda: 3)), "1.forward_hooks functools.partial: "),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))), "0.load_state_dict_pre_hooks"),
        (nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))), "0 (ParametrizedLinear): RuntimeError"),
    ],
    ids=["a lambda", "a partial with a lambda", "torch's own", "a parametrized module"],
)
def test_what_cannot_be_pickled_is_told_by_place(net, reason):
    assert str(what_is_not_pickled(net)).startswith(reason)


def test_an_attribute_that_cannot_be_pickled_is_told_by_place():
    net = nn.Sequential(nn.Linear(2, 2))
    assert what_is_not_pickled(net) is None
    net[0].stream = open(__file__)  # noqa: SIM115
    try:
        assert str(what_is_not_pickled(net)).startswith("0.stream: TypeError: cannot pickle")
    finally:
        net[0].stream.close()


def test_the_scratch_process_reads_nothing_but_its_standard_input():
    done = subprocess.run([sys.executable, "-m", "flserver.models.read_back"], input=b"no pickle", capture_output=True)
    assert done.returncode != 0
    assert done.stdout == b""
