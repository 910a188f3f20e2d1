"""What the code does not say of itself: the meaning of each view and column, and of what a command takes without a help
text. Markdown."""

PARAMETERS = {
    "name": "A question, by its name. Left out: all of them are listed.",
    "databases": "None, or two databases that are to be compared.",
    "role": "The name of a role of PostgreSQL's, which is made by `CREATE ROLE`.",
    "source": "The database whose record is copied.",
    "target": "A database without a record: a file that is not there yet, or an empty database of PostgreSQL's.",
    "folder": "The backup: a folder.",
    "revision": "A revision of the schema, as `db check` prints it.",
    "run": "The run: its name, its run_id, the beginning of that, or `newest`.",
    "server_options": "Options of a server of its own, after `--`.",
    "runs": "The runs, each named so.",
    "shell": "The shell that it is for.",
    "prove what": "An event by its number, an update as `update:ID`, or a committed round as `RUN:ROUND`.",
    "descendants what": "A committed round as `RUN:ROUND`, or else a client's id.",
    "evidence what": "A run, all of its rounds, or one round as `RUN:ROUND`.",
    "one": "What one witness saw.",
    "other": "What the other saw.",
    "file": "What `flserver prove` made.",
    "sql": "One statement; `-` reads it from standard input.",
}

RUN = "The run: `v1_runs.run_id`."
PROCESS = "The server process: `v1_processes.process_id`."
CONNECTION = "The connection: `v1_connections.connection_id`."
WHOSE = "`authenticated` by a certificate, or `claimed` by the message alone."
SAMPLES = "Training samples that the client said it has."
COUNTED = (
    "How many of its `data_size` samples count as its weight in the mean: all, unless its owner counts for less "
    "(`--max-weight-share cap:…`). NULL without an update."
)
SHARE = "Its share of the new model, 0 to 1; the shares of a round sum to 1. NULL unless accepted."
COSINE = (
    "How much of the update is in the direction of the last round: the cosine, from −1 to 1, of the angle between "
    "update − model sent and model sent − the model of the round before, over all floating-point tensors. The same "
    "on every machine but for rounding errors. NULL in round 1, where either is zero, where `update_norm` is NULL, "
    "and after a resumption whose last two checkpoints are not both there, until the next round."
)
NORM = (
    "L2 distance of the update from the model that was sent. NULL where it is late or a duplicate, and where the two "
    "cannot be compared."
)

VIEWS: dict[str, tuple[str, dict[str, str]]] = {
    "v1_runs": (
        "A run, whatever became of it.",
        {
            "run_id": "When its server was started, to the second, and six random hexadecimal digits: unique, and "
            "sorted by time.",
            "name": "What `--run-name` called it, else its run_id. Names may repeat; a name then means the newest run.",
            "status": "`running`, `completed`, `interrupted` (it can be resumed) or `failed`. After a kill or a "
            "power cut it stays `running` until the next server opens the database.",
            "started_at": "When its first server process began it.",
            "ended_at": "When it ended. NULL while it runs, and where nobody saw its end.",
            "num_rounds": "How many rounds it is to have; a resumption may raise it.",
            "rounds_committed": "How many it has, without round 0, the initial model.",
            "model": "`--model`.",
            "strategy": "`--strategy`.",
            "seed": "`--seed`.",
            "config": "JSON: the settings in force, by their names with underscores; paths are absolute. Not in it are "
            "those of the process alone: the database, how it logs, and which run is meant.",
            "final_digest": "Digest of its last committed model, once it has ended.",
            "parent_run_id": "The run whose model it began with (`--resume-from`, `--initial-weights`), if any.",
            "parent_round": "That model's round.",
            "server_version": "The flserver that began it.",
            "arithmetic": "Of its last committed round: `v1_rounds.arithmetic`.",
        },
    ),
    "v1_processes": (
        "A server process that worked on a run.",
        {
            "process_id": "Its number in this database.",
            "run_id": RUN,
            "host": "The machine's name.",
            "user": "The user that it ran as.",
            "pid": "Its process id there.",
            "server_version": "Its flserver.",
            "python_version": "Its Python.",
            "torch_version": "Its torch.",
            "overrides": "JSON: the settings that a resumption gave anew, with their new values.",
            "started_at": "When it began to work on the run.",
            "ended_at": "When it came to its orderly end. NULL while it runs, and where it was killed.",
            "exit_code": "Its exit code then.",
            "resumed_from_round": "The last committed round that it went on from; NULL where there was none.",
            "code": "JSON: SHA-256 of the source of the module that each of `model`, `strategy` and `evaluate` names. "
            "What torchvision has is not here: its version is in `libraries`. NULL in a record that is older than "
            "the column, here and in the next two.",
            "libraries": "JSON: the versions of flserver and of the libraries that the models' bits may depend on.",
            "cpu": "What the CPU calls itself.",
        },
    ),
    "v1_nodes": (
        "An ingest node of a run (`--ingest`): a process that serves trainers. One that comes in another's place has a "
        "row of its own. Machines and addresses here are the operator's, as in `v1_processes`: no purge takes them.",
        {
            "run_id": RUN,
            "node": "Its name: no two of a run have the same. `v1_connections.node` says whom it served.",
            "slot": "Its place among those that there are at once, from 1 to `--ingest`: one after another is in it. "
            "It is the label of the metrics.",
            "process_id": PROCESS,
            "host": "The name of its machine.",
            "pid": "Its process id there.",
            "listen_host": "The address on which it listens for trainers.",
            "listen_port": "The port there, which the nodes of a machine share.",
            "started_at": "When it was begun.",
            "ended_at": "When it came to its end, or was taken for gone. NULL while it serves. Where the server was "
            "killed, when that was put on record.",
            "lost": "1 where the node was gone before its time: killed, or no answer came from it; 0 where it ended in "
            "order; NULL while it serves, and where the server was killed. Updates that went with it have the "
            "decision `lost`.",
            "end_reason": "`finished`, or how it showed that it was gone (of a process of the server's machine by "
            "which signal, or with which exit code, it ended), or `server stopped` where the server was killed.",
            "connections": "How many connections it accepted, also those of strangers without a row.",
            "updates": "How many complete uploads came by it, whatever was decided of them.",
            "updates_lost": "How many of these have the decision `lost`.",
            "bytes_in": "Bytes of the messages that came in, also on connections that are open still.",
            "bytes_out": "Bytes of those that went out.",
            "code": "JSON: SHA-256 of the sources of flserver on its machine.",
            "libraries": "JSON: the versions there of the libraries that the models' bits may depend on.",
            "cpu": "What the CPU there calls itself.",
        },
    ),
    "v1_operator_events": (
        "What the operator, or a signal, did.",
        {
            "run_id": RUN,
            "process_id": PROCESS,
            "at": "When.",
            "kind": "`start`, `resume`, `override` (a setting given anew), `reload` (SIGHUP), `stop`, `keep-updates` "
            "(accepted updates are kept), or `upgrade`, `downgrade`, `restore` or `purge` (of the database), or "
            "`export` (personal data were taken out).",
            "detail": "JSON: with `start` and `resume` where it listens, its certificate and roster; with `reload` the "
            "new ones, or why they were refused; with `override` the setting, before and now; with `stop` the signal "
            "and the grace in seconds; with `upgrade` and `downgrade` both schemas; with `restore` of what backup; "
            "with `purge` what went, how much; with `export` what left, of which runs, into which file; "
            "with `keep-updates` how many rounds' stay. `sender_pid` and `sender_uid` are of "
            "the process that sent a signal, where the system tells.",
            "actor": "Who did it, as `--actor` says, else the system's user; of a signal, the user who sent it, or who "
            "its `.reason` file says it is. NULL where that is unknown, and in rows from before it was asked.",
            "reason": "Why, as `--reason` or the `.reason` file says. NULL where nothing was said.",
        },
    ),
    "v1_clients": (
        "A registration. A client that comes back has one more.",
        {
            "run_id": RUN,
            "client_id": 'The client\'s id, as text: 3 and `"3"` are one client.',
            "registration": "Which registration of this client in this run: 1, 2, …",
            "connection_id": CONNECTION,
            "identity": WHOSE,
            "data_size": SAMPLES,
            "info": "JSON: what the client told of itself. `flclient` tells its settings, versions and device; "
            "unchanged trainers tell nothing.",
            "registered_at": "When it was admitted.",
            "left_at": "When its connection ended.",
            "left_reason": "`finished` (it was told that the run is complete), `stopped` (that the run has stopped; or "
            "it was cut off then, with `--goodbye close` or because it read too slowly to be told), `closed`, `reset`, "
            "`timeout`, `protocol` (it spoke out of turn), `node` (the ingest node that had the connection is gone), "
            "`other` (taken off the roster, for one), or `server "
            "stopped` where the server ended by a kill or a power cut: no orderly stop, which is `stopped`.",
            "label": "The client's name in the roster.",
            "metadata": "JSON: the fields of its registration as they were sent, but for header and info: the id as a "
            'number or a text, a `data_size` of 10.0, keys that nobody asks for; NaN is `"NaN"`. NULL in what older '
            "versions wrote.",
        },
    ),
    "v1_connections": (
        "A connection to the trainers' port, a port scan's too, up to `--strangers-per-minute`.",
        {
            "run_id": RUN,
            "connection_id": "Its number in this database.",
            "peer_host": "The address of the peer; behind a `--trusted-proxy` the one that the forwarder states.",
            "peer_port": "Its port there.",
            "client_id": "The client whose connection it is; NULL where nobody was identified.",
            "purpose": "`register`, `upload`, or `unknown` where no message has said which.",
            "transport": "`tcp` or `tls`.",
            "certificate_subject": "The subject of the peer's certificate, where one was asked for and verified.",
            "certificate_fingerprint": "`sha256:hex` of that certificate.",
            "opened_at": "When it was accepted; the row may come later, where many strangers do.",
            "closed_at": "When it ended.",
            "close_reason": "Why: `closed`, `finished`, `stopped`, the error, or who needed its place.",
            "bytes_in": "Bytes received on it. NULL until it ends.",
            "bytes_out": "Bytes sent on it. NULL until it ends.",
            "proxy_host": "The forwarder's own address, where one spoke for the peer.",
            "node": "The ingest node that accepted it, `v1_nodes.node`; NULL where the server did itself.",
        },
    ),
    "v1_summaries": (
        "Strangers without rows of their own, of one kind: connections that became neither a registration nor an "
        "update, beyond `--strangers-per-minute`. With those that have rows, no connection is left out.",
        {
            "run_id": RUN,
            "minute": "The beginning of the minute in which they ended, or were answered.",
            "prefix": "Their network, IPv4 /24 or IPv6 /64; `elsewhere` for all that came when a thousand kinds of the "
            "minute were told apart.",
            "reason": "`silent`, `broken_off` (in the middle of the message), `cut` (made room for another, or was "
            "there when the server stopped), `not_served` (no place), by what was wrong `handshake`, `frame`, `size`, "
            "`message`, `pickle`, `identity` or `registration`, or `other`.",
            "purpose": "As in `v1_connections`.",
            "header": "That of their messages, where it is one of the protocol's; else `other`.",
            "outcome": "That of their messages; NULL where none came.",
            "connections": "How many they were.",
            "messages": "Messages that came in on them, whole or not.",
            "message_bytes": "The bytes of these.",
            "answers": "`<ERROR>` messages that were sent on them.",
            "failed_answers": "The same of those that could not be sent whole.",
            "bytes_in": "Bytes received on them.",
            "bytes_out": "Bytes sent on them. They count when the connection has ended: a server that was killed has "
            "lost them.",
        },
    ),
    "v1_messages": (
        "A message, in or out, whatever became of it.",
        {
            "run_id": RUN,
            "message_id": "Its number in this database.",
            "connection_id": CONNECTION,
            "client_id": "The client whose message it is; NULL where nobody was identified.",
            "round": "Of a model sent: its round. Of an upload: the round it answers, also when late. Else NULL.",
            "direction": "`in` or `out`.",
            "header": "`<METADATA>`, `<SUCCESS>`, `<ERROR>`, `<MODEL>`, `<FINISHED>`, or what a peer wrote there "
            "instead; NULL where none could be read.",
            "encoding": "`json`, `pickle` or `unknown`.",
            "bytes": "Its bytes on the wire, as far as they came.",
            "digest": "BLAKE3 of its body; NULL where that is not whole.",
            "at": "When its last byte had come, or gone.",
            "seconds": "From its first byte to its last.",
            "outcome": "`ok`, `refused` (it broke the protocol, a limit or an identity rule), or `failed` (it was cut "
            "off).",
            "reason": "Why, where it is not `ok`; else what was done to take it, and what of it is not kept.",
        },
    ),
    "v1_updates": (
        "A complete upload whose sender may speak for its client.",
        {
            "run_id": RUN,
            "update_id": "Its number in this database.",
            "message_id": "The message that it came in: `v1_messages.message_id`.",
            "connection_id": CONNECTION,
            "client_id": "The client that it is of.",
            "answers_round": "The round of the model that it answers; NULL for a duplicate, which answers none.",
            "answers_attempt": "The attempt of that round.",
            "arrived_round": "The round that was being made when it arrived; NULL between attempts.",
            "decision": "Its [decision](#decisions); NULL while it counts and its attempt runs.",
            "reason": "Why, where it is not accepted.",
            "update_digest": "BLAKE3 of its tensors as sent: names, dtypes, shapes, values. NULL where none were read.",
            "data_size": SAMPLES,
            "weight": SHARE,
            "received_at": "When its last byte had come.",
            "wait_seconds": "From the model sent to its first byte: the training.",
            "upload_seconds": "From its first byte to its last.",
            "update_norm": NORM,
            "identity": WHOSE,
            "parameters_norm": "`update_norm` of its parameters alone.",
            "buffers_norm": "`update_norm` of its floating-point buffers alone, such as running statistics.",
            "counted_size": COUNTED,
            "kept": "Where its tensors lie as they were averaged, below the checkpoint directory; the name is their "
            "BLAKE3. NULL where it was not accepted, without `--keep-updates`, and once the file was deleted.",
            "update_cosine": COSINE,
        },
    ),
    "v1_rounds": (
        "An attempt at a round. A round exists once one of its attempts is committed.",
        {
            "run_id": RUN,
            "round": "The round; 0 is the initial model.",
            "attempt": "Which attempt at it: 1, 2, …",
            "status": "`running`, `committed` or `aborted`.",
            "process_id": PROCESS,
            "started_at": "When it started.",
            "ended_at": "When it ended.",
            "deadline_at": "Until when it waits for updates; NULL for round 0.",
            "seconds": "From its start to its end.",
            "broadcast_seconds": "From its start until the last client had been sent the whole model.",
            "wait_seconds": "From then to the last update, or the deadline.",
            "aggregate_seconds": "Making the new model of the updates, as far as the waiting did not hide it.",
            "evaluate_seconds": "Measuring it; NULL where nothing is measured.",
            "checkpoint_seconds": "Writing it durably.",
            "clients": "Clients that the model was sent to; while the attempt runs, those invited.",
            "updates_accepted": "Updates that the new model is made of.",
            "data_size": "Their samples, as counted.",
            "base_digest": "`model_digest` of the round before: the model that was sent.",
            "model_digest": "SHA-256 of the new model's checkpoint file: what `sha256sum` prints.",
            "checkpoint": "That file, below the checkpoint directory.",
            "checkpoint_bytes": "Its size.",
            "checkpoint_deleted_at": "When it was pruned (`--keep-checkpoints`).",
            "loss": "Loss of the new model; NULL without `--eval-data` or `--evaluate`.",
            "accuracy": "Its accuracy, likewise.",
            "event_seq": "The event that ended the attempt: `v1_events.seq`.",
            "reason": "Why it was aborted: `quorum`, `implausible`, `failed`, or what stopped the server: `stopped by "
            "…` in order, `server stopped` after a kill or a power cut.",
            "arithmetic": "How its strategy computes, where it has a name for that; `fedavg`'s is `exact-sum-1`. Equal "
            "names, equal bits. NULL in a round of `fedavg` that is older than the name: there the sum was in "
            "float64, in ascending order of the ids. NULL also before an attempt is committed.",
        },
    ),
    "v1_client_rounds": (
        "A client invited to an attempt, or passed over: it owed an older answer, or is left out.",
        {
            "run_id": RUN,
            "round": "The round.",
            "attempt": "The attempt.",
            "client_id": "The client.",
            "participation": "What came of it: [below](#participation). NULL while the attempt runs.",
            "decision": "The [decision](#decisions) on its update, also a late one; NULL without one.",
            "reason": "Why, where it is not accepted, or was not sent. `implausible`: left out, since the model made "
            "with its update was not finite or had a negative variance.",
            "data_size": SAMPLES,
            "weight": SHARE,
            "sent_at": "The moment before the last bytes of its model were sent.",
            "seconds": "From then to its update received; NULL where none came in time.",
            "bytes_in": "Size of its upload, also of a late one.",
            "bytes_out": "Size of the model sent to it.",
            "update_norm": NORM,
            "counted_size": COUNTED,
            "update_cosine": COSINE,
        },
    ),
    "v1_round_metrics": (
        "A number about a global model.",
        {
            "run_id": RUN,
            "round": "The round whose model was measured.",
            "name": "`loss`, `accuracy`, or whatever name `--evaluate` gives it.",
            "value": "The number; NULL where it is none that can be added up: `note`.",
            "source": "`evaluate`: measured here, with `--eval-data` or `--evaluate`. `clients`: the mean of what the "
            "clients measured on that model when they received it, weighted by `counted_size`, without what cannot be "
            "so: accuracies outside 0 to 1, and losses that are not finite or beyond 1,000 times the clients' median "
            "(those up to 1 are in). `server` is kept for what needs no measuring; nothing is yet.",
            "note": "`NaN`, `Infinity` or `-Infinity`: what was measured, of a model that has diverged. A round that "
            "was not measured has no row.",
        },
    ),
    "v1_client_metrics": (
        "A number that a client reported with its update.",
        {
            "run_id": RUN,
            "round": "The round of the model measured: for a trained one the round that it answers, for a received one "
            "that before.",
            "client_id": "The client.",
            "name": "Its name at the client; `flclient` reports `loss`, `accuracy` (0 to 1) and `seconds` of training.",
            "value": "The number as it was sent, whether it can be so or not; NULL where it is not finite: `note`.",
            "measured_on": "`received`: the global model as it came. `trained`: its own, after training.",
            "source": "`client`: who measured it.",
            "note": "`NaN`, `Infinity` or `-Infinity`: what was sent.",
        },
    ),
    "v1_heads": (
        "A signed head of the record. With `--sign-key` there is one of every round, and of every start, stop and end.",
        {
            "run_id": RUN,
            "process_id": PROCESS,
            "at": "When it was signed.",
            "size": "How many events it is of: all before its own.",
            "root": "The root of the Merkle tree (RFC 6962, SHA-256) whose leaves are their digests.",
            "key": "The public key, as `name+keyid+base64`. The name is the head's origin.",
            "note": "What was signed, with the signature: a C2SP tlog-checkpoint.",
            "event_seq": "The event that put it on record.",
        },
    ),
    "v1_events": (
        "A fact, in the [chain](#the-chain).",
        {
            "seq": "Its place in the chain, from 1 without gaps.",
            "run_id": RUN,
            "type": "What happened, in the past tense: `ClientRegistered`, `RoundCommitted`, …",
            "at": "When.",
            "payload": "JSON: the whole fact, also what no other view shows. NULL where it was purged.",
            "previous_digest": "`digest` of the row before; of the first row, zeros.",
            "digest": "SHA-256 over this row; the payload is in it through a salted digest of its own.",
        },
    ),
}
