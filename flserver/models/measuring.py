"""How well a model does: its loss and accuracy, and the device for it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flserver.errors import UsageError, one_line

BATCH_SIZE = 1024  # samples whose activations are in memory at once


def device_for(use_cuda: bool | None) -> torch.device:
    """The device that a value of ``--use-cuda`` means; None is CUDA if there is one.

    Raises UsageError where CUDA is asked for and there is none.
    """
    if use_cuda and not torch.cuda.is_available():
        raise UsageError("--use-cuda: this machine has no CUDA device that torch can use")
    return torch.device("cuda" if use_cuda or (use_cuda is None and torch.cuda.is_available()) else "cpu")


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean negative log-likelihood (nats) of ``labels``, int64 (N,), under ``outputs`` (N, classes): a tensor ().

    Outputs may be log-probabilities or logits: log_softmax leaves log-probabilities as they are, so that cross entropy
    is the negative log-likelihood of both, and so are its gradients.
    """
    return functional.cross_entropy(outputs, labels)


def loss_and_accuracy(
    module: nn.Module, x: Tensor, y: Tensor, device: torch.device, batch_size: int = BATCH_SIZE
) -> tuple[float, float]:
    """The mean loss (see :func:`loss_of`) and the accuracy, 0 to 1, of ``module`` in evaluation mode.

    ``x`` (N, …) are the inputs and ``y``, int64 (N,), the labels; N is not 0. Both are moved to ``device``, where the
    module must be, ``batch_size`` samples at a time. The module's mode is afterwards what it was.
    """
    was_training = module.training
    module.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for inputs, labels in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
            labels = labels.to(device)
            outputs = module(inputs.to(device))
            loss += float(loss_of(outputs, labels)) * len(labels)
            correct += int((outputs.argmax(1) == labels).sum())
    module.train(was_training)
    return loss / len(y), correct / len(y)


def check_data_fits(module: nn.Module, x: Tensor, y: Tensor, what: str) -> None:
    """Run ``module``, which is on the CPU, on the first sample.

    ``x`` (N, …) are the inputs, ``y``, int64 (N,), the labels, ``what`` the data's name. Raises UsageError where the
    module does not take ``x``, does not turn it into (N, classes), or has no class for one of the labels.
    """
    was_training = module.training
    try:
        with torch.no_grad():
            outputs = module.eval()(x[:1])
    except Exception as error:
        raise UsageError(f"the model does not take {what} of shape {tuple(x.shape)}: {one_line(error)}") from error
    finally:
        module.train(was_training)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise UsageError(f"the model does not turn {what} into one row of classes a sample")
    if int(y.max()) >= outputs.shape[1]:
        raise UsageError(f"the model tells {outputs.shape[1]} classes apart; {what} has the label {int(y.max())}")
