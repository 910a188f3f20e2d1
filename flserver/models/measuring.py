"""How well a model does: its loss and accuracy, and the device for it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from flserver.errors import UsageError, one_line

BATCH_SIZE = 1024  # samples whose activations are in memory at once
AUXILIARY_SHARE = 0.3  # of an auxiliary head's loss in training (Szegedy et al. 2015, "Going deeper with convolutions")


def device_for(use_cuda: bool | None) -> torch.device:
    """The device that a value of ``--use-cuda`` means; None is CUDA if there is one.

    Raises UsageError where CUDA is asked for and there is none.
    """
    if use_cuda and not torch.cuda.is_available():
        raise UsageError("--use-cuda: this machine has no CUDA device that torch can use")
    return torch.device("cuda" if use_cuda or (use_cuda is None and torch.cuda.is_available()) else "cpu")


def scores_of(outputs: object) -> Tensor | None:
    """The scores (N, classes) in what a classification model gives; None where there is no tensor to be found.

    They are the outputs themselves, the ``logits`` of an object or a dict, or the first of a tuple or a list.
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if logits is None and isinstance(outputs, tuple | list) and outputs:
        logits = outputs[0]
    return None if logits is None else scores_of(logits)


def loss_of(outputs: object, labels: Tensor) -> Tensor:
    """The mean negative log-likelihood (nats) of ``labels``, int64 (N,), under a model's ``outputs``: a tensor ().

    Their scores (N, classes) may be log-probabilities or logits: log_softmax leaves log-probabilities as they are, so
    that cross entropy is the negative log-likelihood of both, and so are its gradients. Heads that a model has for its
    training only, the ``aux_logits…`` of torchvision's, add their share.
    """
    loss = functional.cross_entropy(_scores(outputs, labels), labels)
    for name in getattr(outputs, "_fields", ()) if isinstance(outputs, tuple) else ():
        head = getattr(outputs, name)
        if name.startswith("aux_logits") and head is not None:
            loss = loss + AUXILIARY_SHARE * functional.cross_entropy(head, labels)
    return loss


def batch_count(samples: int, size: int) -> int:
    """Into how many batches of nearly equal size ``samples`` are cut, of at most ``size`` each.

    But no sample is left alone where ``size`` is not 1, for BatchNorm cannot be trained on one, and models that squeeze
    their outputs lose a dimension: an odd number in pairs has a batch of three.
    """
    return math.ceil(samples / size) if size != 2 else max(1, samples // 2)


def loss_and_accuracy(
    module: nn.Module, x: Tensor, y: Tensor, device: torch.device, batch_size: int = BATCH_SIZE
) -> tuple[float, float]:
    """The mean loss (see :func:`loss_of`) and the accuracy, 0 to 1, of ``module`` in evaluation mode.

    ``x`` (N, …) are the inputs and ``y``, int64 (N,), the labels; N is not 0. Both are moved to ``device``, where the
    module must be, ``batch_size`` samples at a time. The module's mode is afterwards what it was.
    """
    was_training = module.training
    module.eval()
    loss, correct, count = 0.0, 0, batch_count(len(y), batch_size)
    with torch.no_grad():
        for inputs, labels in zip(x.tensor_split(count), y.tensor_split(count), strict=True):
            labels = labels.to(device)
            scores = _scores(module(inputs.to(device)), labels)
            loss += float(loss_of(scores, labels)) * len(labels)
            correct += int((scores.argmax(1) == labels).sum())
    module.train(was_training)
    return loss / len(y), correct / len(y)


def check_data_fits(module: nn.Module, x: Tensor, y: Tensor, what: str) -> None:
    """Run ``module``, which is on the CPU, on the first samples.

    ``x`` (N, …) are the inputs, ``y``, int64 (N,), the labels, ``what`` the data's name. Raises UsageError where the
    module does not take ``x``, does not turn it into (N, classes), or has no class for one of the labels.
    """
    was_training = module.training
    try:
        with torch.no_grad():
            outputs = module.eval()(x[:2])
    except Exception as error:
        raise UsageError(f"the model does not take {what} of shape {tuple(x.shape)}: {one_line(error)}") from error
    finally:
        module.train(was_training)
    scores = _scores(outputs, y[:2], what)
    if int(y.max()) >= scores.shape[1]:
        raise UsageError(f"the model tells {scores.shape[1]} classes apart; {what} has the label {int(y.max())}")


def _scores(outputs: object, labels: Tensor, what: str = "its inputs") -> Tensor:
    """The scores (N, classes) for ``labels`` (N,). Raises UsageError where ``outputs`` holds none."""
    scores = scores_of(outputs)
    if scores is None or scores.ndim != 2 or len(scores) != len(labels):
        found = type(outputs).__name__ if scores is None else f"shape {tuple(scores.shape)} for {len(labels)} samples"
        raise UsageError(f"the model does not turn {what} into one row of classes a sample, but into {found}")
    return scores
