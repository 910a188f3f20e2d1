"""Loss and accuracy of a module on data, and on which device."""

import pytest
import torch
from torch import nn

from flserver.errors import UsageError
from flserver.models.measuring import check_data_fits, device_for, loss_and_accuracy, loss_of


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


def test_a_model_that_does_not_take_the_data_is_told_at_once():
    x, y = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    check_data_fits(nn.Linear(4, 3), x, y, "the data")
    for module, reason in [
        (nn.Linear(5, 3), r"does not take the data of shape \(3, 4\): RuntimeError"),
        (nn.Linear(4, 2), "tells 2 classes apart; the data has the label 2"),
        (nn.Unflatten(1, (2, 2)), "one row of classes"),
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
