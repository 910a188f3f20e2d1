"""The server's settings: every name, type, default and help text stands here once."""

from typing import Literal, get_args

from flserver.settings.setting import Setting
from flserver.wire.messages import MAX_DATA_SIZE

MAX_SECONDS = 1e9  # 31 years: what every clock and timer here still counts
MAX_COUNT = 10**9  # of rounds, clients and the like: more than there will be, and far from what an int64 holds

JoinWindow = Literal["fixed", "sliding"]
UploadFrom = Literal["same-address", "any", "certificate"]
Goodbye = Literal["finished", "close"]
MaxUpdateNorm = float | Literal["auto", "off"]
DATASETS = ("fldata", "digits", "mnist", "fashion-mnist", "cifar10")
"""What ``--eval-data`` and the trainer's ``--dataset`` know by name; ``models/datasets.py`` has the data."""
STRATEGIES = ("fedavg",)
"""What ``--strategy`` knows by name; ``aggregation/strategies/by_name.py`` has them."""

SERVER_SETTINGS: tuple[Setting, ...] = (
    Setting(name="host", kind="str", default="127.0.0.1", help="Name or address to listen on for trainers; IPv6 also as [::1], and with a zone as fe80::1%eth0."),
    Setting(name="server-port", kind="int", default=50052, minimum=0, maximum=65535, help="Port for trainers; 0 takes any free one and prints it."),
    Setting(name="num-rounds", kind="int", default=30, minimum=1, maximum=MAX_COUNT, help="Rounds of the run."),
    Setting(name="time-to-wait", kind="float", default=10.0, minimum=0, maximum=MAX_SECONDS, help="Seconds that the join window stays open."),
    Setting(name="join-window", kind="choice", default="fixed", choices=get_args(JoinWindow), help="Count the window from the first registration (fixed) or from the latest (sliding)."),
    Setting(name="use-cuda", kind="tristate", default=None, help="Evaluate on CUDA. Left out: if there is one. Averaging is always on the CPU."),
    Setting(name="db", kind="path", default="runs.sqlite", help="The record: an SQLite database, made where there is none, or the URL of a PostgreSQL database, without a password."),
    Setting(name="resume", kind="bool", default=False, help="Go on with the newest run, or --run-name's, from its last committed round."),
    Setting(name="resume-from", kind="int", default=None, minimum=0, maximum=MAX_COUNT, metavar="N", help="Start a new run, a child, at round N of the newest run, or --run-name's, which stays as it is."),
    Setting(name="standby", kind="bool", default=False, help="Wait until the newest run, or --run-name's, has no server any more, then go on with it as with --resume: for a second server on the same PostgreSQL database. /healthz says meanwhile that it stands by."),
    Setting(name="run-name", kind="str", default=None, metavar="NAME", help="A name for the run; with --resume and --resume-from, the name or run_id of the run that is meant."),
    Setting(name="checkpoint-dir", kind="place", default=None, metavar="PATH|s3://BUCKET/PREFIX", help="Where the models go: a folder, or a prefix in an object store. Default: <db>.checkpoints beside the database; on PostgreSQL it has to be given."),
    Setting(name="checkpoint-patience", kind="float", default=60.0, minimum=0, maximum=MAX_SECONDS, help="Seconds that an object store which fails is tried again with a model, before the run ends as with a full disk."),
    Setting(name="spool-dir", kind="path", default=None, help="The folder for updates that memory has no room for, as files without a name. Default: --checkpoint-dir where that is a folder, else the system's for what is temporary (TMPDIR)."),
    Setting(name="group", kind="str", default=None, metavar="NAME", help="The group that may read what is made anew: database, checkpoints. Default: the server's own."),
    Setting(name="db-patience", kind="float", default=60.0, minimum=0, maximum=MAX_SECONDS, help="Seconds that the server waits for a database that another program has locked, or that cannot be reached; nothing is answered or sent meanwhile."),
    Setting(name="audit-head", kind="path", default=None, metavar="FILE", help="Note the head of the record's hash chain in this file after every round and at every stop. It belongs on another machine: verify --audit-head then finds a record whose end was cut off or written anew. Where it cannot be written the run goes on, with a warning."),
    Setting(name="retain-until", kind="str", default=None, metavar="DATE", help="Until this date (or time, UTC) flserver purge takes nothing of this run. Default: it may at any time."),
    Setting(name="keep-checkpoints", kind="int", default=0, minimum=0, maximum=MAX_COUNT, metavar="K", help="Keep the newest K checkpoints and the best; 0 keeps all."),
    Setting(name="keep-updates", kind="bool", default=False, help="Keep every accepted update on the disk, beside the checkpoints, so that a round can be computed again (flserver replay). They say the most of what there is about single clients' data: whoever can read them can try to tell what a client trained on."),
    Setting(name="keep-updates-rounds", kind="int", default=0, minimum=0, maximum=MAX_COUNT, metavar="K", help="With --keep-updates, keep those of the newest K rounds; 0 keeps all."),
    Setting(name="model", kind="str", default="neural_net_helper:NeuralNet", metavar="SPEC", help="neural_net_helper:NeuralNet, torchvision:NAME or package.module:factory."),
    Setting(name="initial-weights", kind="str", default=None, metavar="FILE|RUN[:ROUND]", help="Start from a .safetensors file or from a round of a run in this database."),
    Setting(name="seed", kind="int", default=0, minimum=0, maximum=2**63 - 1, help="Seed of the initial model."),
    Setting(name="strategy", kind="str", default="fedavg", help="How updates become the next global model: fedavg, or package.module:Class."),
    Setting(name="min-clients", kind="int", default=1, minimum=1, maximum=MAX_COUNT, help="Clients that must have registered before the first round. To be given where anybody can reach the port."),
    Setting(name="min-updates", kind="int", default=None, minimum=1, maximum=MAX_COUNT, metavar="N", help="Updates that a round needs. Default: 2, or 1 where one client alone was there when the first join window closed."),
    Setting(name="round-timeout", kind="float", default=3600.0, minimum=0.001, maximum=MAX_SECONDS, help="Seconds until a round's deadline."),
    Setting(name="go-on-at", kind="str", default=None, metavar="N|SHARE", help="End a round --grace seconds after so many clients have answered, --min-updates of them with updates that count: a number, or a share of the clients invited, such as 0.8. Left out: it waits for all."),
    Setting(name="grace", kind="float", default=0.0, minimum=0, maximum=MAX_SECONDS, help="Seconds that a round still waits for the others once --go-on-at is reached."),
    Setting(name="round-attempts", kind="int", default=3, minimum=1, maximum=MAX_COUNT, help="Aborted attempts at one round after which the run ends interrupted: a missed quorum, a model that is not committed."),
    Setting(name="rejoin", kind="bool", default=True, help="Let a participant whose connection died register again."),
    Setting(name="rejoin-timeout", kind="float", default=60.0, minimum=0, maximum=MAX_SECONDS, help="Seconds to wait for participants while there are fewer than --min-updates."),
    Setting(name="stop-grace", kind="float", default=30.0, minimum=0, maximum=MAX_SECONDS, help="Seconds that a stop (SIGTERM, Ctrl-C) gives the running round to end and be committed, and trainers to hand in what they train; 0: at once."),
    Setting(name="goodbye", kind="choice", default="finished", choices=get_args(Goodbye), help="How unchanged trainers leave a run that stops in its middle: told that it is finished, or cut off, so that what keeps them running starts them again."),
    Setting(name="eval-data", kind="str", default=None, metavar="SPEC", help=f"Evaluate every global model on: {', '.join(DATASETS[:-1])} or {DATASETS[-1]}."),
    Setting(name="data-dir", kind="path", default=None, help="Where data sets lie. Default: FLdata for fldata, data for the others."),
    Setting(name="evaluate", kind="str", default=None, metavar="MODULE:FUNCTION", help="Evaluate every global model with function(model, round) -> dict of numbers; an accuracy is from 0 to 1."),
    Setting(name="metrics-host", kind="str", default="127.0.0.1", help="Name or address of /metrics and /healthz, written as --host's."),
    Setting(name="metrics-port", kind="int", default=9464, minimum=0, maximum=65535, help="Port of /metrics and /healthz; 0 turns them off."),
    Setting(name="sign-key", kind="path", default=None, metavar="FILE", help="Sign the record's head after every round, and at every start, stop and end, with this key, which flserver keygen makes: /checkpoint on the metrics port has the newest."),
    Setting(name="sign-key-passphrase-file", kind="path", default=None, metavar="FILE", help="Its passphrase: the first line of this file."),
    Setting(name="metrics-linger", kind="float", default=0.0, minimum=0, maximum=MAX_SECONDS, help="Seconds that /metrics outlives a finished run, so that its last values are scraped."),
    Setting(name="receive-memory", kind="int", default=1024, minimum=1, maximum=MAX_COUNT, metavar="MIB", help="Memory for updates being received or held, and for the sum of a round, in MiB; beyond it they lie in unlinked files in --spool-dir."),
    Setting(name="max-update-size", kind="int", default=None, minimum=1, maximum=2**48, metavar="BYTES", help="Longest message with a model. Default: as many whole models as the model has parameter tensors, 2 at least and 64 at most, and 64 KiB more."),
    Setting(name="accept-dtypes", kind="str", default="float16,bfloat16,float64", metavar="DTYPE[,DTYPE]", help="Convert updates in these dtypes where the model has float32; '' takes the model's own only."),
    Setting(name="max-json-size", kind="int", default=4096, minimum=64, maximum=2**20, metavar="BYTES", help="Longest registration."),
    Setting(name="max-data-size", kind="int", default=MAX_DATA_SIZE, minimum=1, maximum=MAX_DATA_SIZE, metavar="N", help="Most training samples that a client may say it has."),
    Setting(name="max-weight-share", kind="share", default=1.0, minimum=0.001, maximum=1, metavar="SHARE|cap:SHARE", help="Largest share of the invited clients' samples that one owner (a certificate, else an address) may have. Beyond it its updates are rejected, or with cap: counted with fewer samples. 1 is off."),
    Setting(name="max-update-norm", kind="str", default="auto", metavar="auto|off|NUMBER", help="Reject an update that is further than this (L2 norm) from the model it was sent. auto: further than 1e18 and, once three rounds are committed, than a thousand times the furthest of the run so far, parameters and buffers each for themselves, unless half of a round's clients are."),
    Setting(name="first-frame-timeout", kind="float", default=30.0, minimum=0.001, maximum=MAX_SECONDS, help="Seconds a new connection has to send its first bytes, and to finish a TLS handshake."),
    Setting(name="frame-timeout", kind="float", default=3600.0, minimum=0.001, maximum=MAX_SECONDS, help="Seconds that receiving an update, or sending a model, may take."),
    Setting(name="min-rate", kind="float", default=1024.0, minimum=0, maximum=1e12, metavar="BYTES", help="Bytes a second below which a message is not waited for any more, counted over 30 seconds (or --first-frame-timeout, if less) of waiting for its sender."),
    Setting(name="peer-timeout", kind="float", default=90.0, minimum=3, maximum=86400, help="Seconds after which a peer whose machine does not answer any more is gone."),
    Setting(name="max-connections", kind="int", default=4096, minimum=8, maximum=MAX_COUNT, help="Connections at once, as far as descriptors allow. Half of them are places for clients, each of which has one more for its upload. When full, those whose first message is not whole make room, strangers first."),
    Setting(name="max-connections-per-address", kind="int", default=2048, minimum=2, maximum=MAX_COUNT, metavar="N", help="The same for one address. A trainer has one for good, and one more while it uploads."),
    Setting(name="strangers-per-minute", kind="int", default=120, minimum=0, maximum=MAX_COUNT, metavar="N", help="Connections a minute from one address prefix (IPv4 /24, IPv6 /64) that have rows of their own though they become neither a registration nor an update; from all prefixes together ten times as many. The rest is summed by minute, prefix and reason."),
    Setting(name="max-clients-per-address", kind="int", default=None, minimum=1, maximum=MAX_COUNT, metavar="N", help="Clients that may be registered from one address at once. Default: half of --max-connections-per-address."),
    Setting(name="upload-from", kind="choice", default=None, choices=get_args(UploadFrom), help="Whose uploads count: those from the address that registered the client, anybody's, or those with its certificate. Default: same-address, or certificate with --tls-client-ca."),
    Setting(name="clients", kind="path", default=None, metavar="FILE", help="Admit these clients only, and start as soon as all are in: CSV with the columns id, label, fingerprint."),
    Setting(name="tls-cert", kind="path", default=None, metavar="FILE", help="Speak TLS to trainers, with this certificate (PEM, the chain after it)."),
    Setting(name="tls-key", kind="path", default=None, metavar="FILE", help="Its key. Default: in the file of --tls-cert."),
    Setting(name="tls-client-ca", kind="path", default=None, metavar="FILE", help="Ask trainers for certificates that one of these signed: the common name is the client's id."),
    Setting(name="trusted-proxy", kind="str", default=None, metavar="CIDR[,CIDR]", help="Forwarders' addresses: each connection from there begins with a PROXY protocol header, which has the trainer's."),
    Setting(name="ingest", kind="int", default=0, minimum=0, maximum=1024, metavar="N", help="Serve trainers with so many processes beside this one, ingest nodes; 0: this process does."),
    Setting(name="ray-address", kind="str", default=None, metavar="HOST:PORT", help="The Ray cluster that the nodes of --ingest run on, on whichever of its machines; this machine is one of them. Left out: they are processes of this machine."),
    Setting(name="insecure", kind="bool", default=False, help="Listen on more than loopback without TLS, where an attacker on the way can run code on the trainers."),
    Setting(name="actor", kind="str", default=None, metavar="NAME", help="Who starts or resumes the run, for the record. Default: the system's user."),
    Setting(name="reason", kind="str", default=None, metavar="TEXT", help="Why, for the record."),
    Setting(name="log-format", kind="choice", default="text", choices=("text", "json"), help="One log line an event, as text or JSON."),
    Setting(name="log-level", kind="choice", default="info", choices=("debug", "info", "warning", "error"), help="Least severe line to log."),
)  # fmt: skip

PATHS = tuple(setting.key for setting in SERVER_SETTINGS if setting.kind in ("path", "place"))
