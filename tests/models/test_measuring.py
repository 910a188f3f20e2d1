"""Loss and accuracy of a module on data, and on which device."""

import pytest
import torch
from torch import nn

from flserver.errors import UsageError
from flserver.models.measuring import (
    AUXILIARY_SHARE,
    batch_count,
    check_data_fits,
    device_for,
    loss_and_accuracy,
    loss_of,
    scores_of,
)
from tests.models.modules import FORMS, Heads, Shaped, Squeezing, in_a_dataclass


def test_the_loss_is_the_negative_log_likelihood_of_log_probabilities_and_of_logits():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = -logits.softmax(1)[torch.arange(7), labels].log().mean()
    assert torch.allclose(loss_of(logits, labels), expected)
    assert torch.allclose(loss_of(logits.log_softmax(1), labels), expected)


def test_loss_and_accuracy_weigh_every_sample_the_same_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Dropout(0.9))
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(2))
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    expected = torch.nn.functional.cross_entropy(x, y).item()
    for batch_size in (1, 2, 1024):
        loss, accuracy = loss_and_accuracy(module, x, y, torch.device("cpu"), batch_size)
        assert loss == pytest.approx(expected)
        assert accuracy == pytest.approx(2 / 3)
    assert module.training


@pytest.mark.parametrize("form", FORMS)
def test_the_scores_are_found_in_whatever_a_model_gives(form):
    scores, labels = torch.randn(7, 4), torch.arange(7) % 4
    assert scores_of(FORMS[form](scores)) is scores
    assert torch.equal(loss_of(FORMS[form](scores), labels), nn.functional.cross_entropy(scores, labels))
    module = nn.Linear(2, 4)
    x = torch.rand(7, 2)
    shaped = Shaped(module, FORMS[form])
    check_data_fits(shaped, x, labels, "the data")
    expected = loss_and_accuracy(module, x, labels, torch.device("cpu"), 3)
    assert loss_and_accuracy(shaped, x, labels, torch.device("cpu"), 3) == expected


@pytest.mark.parametrize("outputs", [None, 3, "logits", (), [], {}, {"scores": torch.zeros(2, 2)}, (None, 1), object()])
def test_what_holds_no_scores_is_told(outputs):
    assert scores_of(outputs) is None
    x, y = torch.zeros(2, 4), torch.tensor([0, 1])
    told = f"does not turn the data into one row of classes a sample, but into {type(outputs).__name__}$"
    with pytest.raises(UsageError, match=told):
        check_data_fits(Shaped(nn.Linear(4, 2), lambda _: outputs), x, y, "the data")


def test_auxiliary_heads_take_their_part_in_the_loss_and_none_in_the_accuracy():
    main, first, second = torch.randn(3, 7, 4)
    labels = torch.arange(7) % 4
    losses = [nn.functional.cross_entropy(scores, labels) for scores in (main, first, second)]
    both = Heads(logits=main, aux_logits2=first, aux_logits1=second)
    assert torch.allclose(loss_of(both, labels), losses[0] + AUXILIARY_SHARE * (losses[1] + losses[2]))
    one = Heads(logits=main, aux_logits2=None, aux_logits1=second)
    assert torch.allclose(loss_of(one, labels), losses[0] + AUXILIARY_SHARE * losses[2])
    assert loss_of((main, first), labels) == losses[0], "nobody knows what a tuple's others are"

    x = torch.rand(7, 2)
    module = nn.Linear(2, 4)
    headed = Shaped(module, lambda scores: both._replace(logits=scores, aux_logits2=first[: len(scores)]))
    assert loss_and_accuracy(headed, x, labels, torch.device("cpu")) == loss_and_accuracy(
        module, x, labels, torch.device("cpu")
    )


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 41, 1024, 1025, 2049])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 1024, 5000])
def test_batches_are_of_nearly_equal_size_and_no_sample_is_left_alone(samples, size):
    sizes = [len(batch) for batch in torch.arange(samples).tensor_split(batch_count(samples, size))]
    assert sum(sizes) == samples
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= (3 if size == 2 else size)
    assert min(sizes) > 1 or size == 1 or samples == 1


@pytest.mark.parametrize("samples", [2, 3, 5])
def test_a_model_that_squeezes_its_outputs_is_measured_all_the_same(samples):
    x, y = torch.rand(samples, 4), torch.zeros(samples, dtype=torch.int64)
    module = nn.Linear(4, 3)
    check_data_fits(Squeezing(module), x, y, "the data")
    expected = loss_and_accuracy(module, x, y, torch.device("cpu"), 2)
    assert loss_and_accuracy(Squeezing(module), x, y, torch.device("cpu"), 2) == expected
    with pytest.raises(UsageError, match=r"but into shape \(3,\) for 1 samples"):
        check_data_fits(Squeezing(module), x[:1], y[:1], "the data")


def test_a_model_that_does_not_take_the_data_is_told_at_once():
    x, y = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    check_data_fits(nn.Linear(4, 3), x, y, "the data")
    for module, reason in [
        (nn.Linear(5, 3), r"does not take the data of shape \(3, 4\): RuntimeError"),
        (nn.Linear(4, 2), "tells 2 classes apart; the data has the label 2"),
        (Shaped(nn.Linear(4, 2), in_a_dataclass), "tells 2 classes apart; the data has the label 2"),
        (nn.Unflatten(1, (2, 2)), r"one row of classes a sample, but into shape \(2, 2, 2\) for 2 samples"),
        (nn.Flatten(0), r"one row of classes a sample, but into shape \(8,\) for 2 samples"),
    ]:
        with pytest.raises(UsageError, match=reason):
            check_data_fits(module, x, y, "the data")


def test_the_device_is_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for(None).type == device_for(False).type == "cpu"
    with pytest.raises(UsageError, match="no CUDA"):
        device_for(True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for(None).type == device_for(True).type == "cuda"
    assert device_for(False).type == "cpu"
