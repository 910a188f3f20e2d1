"""The trainer's table of settings: every name, type, default and help text stands here once."""

from flserver.settings import Setting

CLIENT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="client-id",
        kind="str",
        default=None,
        metavar="ID",
        help="This client's id (required). A whole number is sent as one, anything else as text.",
    ),
    Setting(name="host", kind="str", default="localhost", help="The server's address."),
    Setting(name="server-port", kind="int", default=50052, minimum=1, maximum=65535, help="The server's port."),
    Setting(name="use-cuda", kind="tristate", default=None, help="Train on CUDA. Left out: if there is one."),
    Setting(
        name="dataset",
        kind="choice",
        default="fldata",
        choices=("fldata", "digits", "mnist", "fashion-mnist", "cifar10"),
        help="What to train on.",
    ),
    Setting(
        name="data-dir",
        kind="path",
        default=None,
        help="Where the data lie. Default: FLdata for fldata, data for the others.",
    ),
    Setting(
        name="num-clients",
        kind="int",
        default=1,
        minimum=1,
        metavar="N",
        help="How many clients share the data set (not fldata, which has a file for each).",
    ),
    Setting(
        name="part",
        kind="str",
        default=None,
        metavar="K",
        help="Which of the parts 1 to --num-clients to train on; with fldata, whose file. Default: --client-id.",
    ),
    Setting(
        name="partition",
        kind="str",
        default="iid",
        metavar="iid|dirichlet:A",
        help="How the data set is shared out: evenly, or by class with concentration A.",
    ),
    Setting(
        name="model",
        kind="str",
        default="neural_net_helper:NeuralNet",
        metavar="SPEC",
        help="neural_net_helper:NeuralNet, torchvision:NAME or package.module:factory; the server's own.",
    ),
    Setting(name="epochs", kind="int", default=8, minimum=1, help="Passes over the training data a round."),
    Setting(name="learning-rate", kind="float", default=0.7, minimum=0, help="Learning rate of SGD."),
    Setting(
        name="batch-size",
        kind="int",
        default=None,
        minimum=1,
        metavar="N",
        help="Samples a step. Default: all of them.",
    ),
    Setting(
        name="seed",
        kind="int",
        default=0,
        minimum=0,
        maximum=2**32 - 1,
        help="Seed of the partition, which all clients must share, and of the order of batches.",
    ),
    Setting(
        name="reconnect",
        kind="float",
        default=0.0,
        minimum=0,
        metavar="SECONDS",
        help="How long to try to reach the server, at the start and whenever the connection is lost.",
    ),
)
