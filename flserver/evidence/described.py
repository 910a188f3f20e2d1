"""What a bundle says of its model beyond the record: a CycloneDX ML-BOM, and an OpenSSF model-signing signature."""

import base64
import hashlib

from flserver.evidence.verify import MODEL, canonical
from flserver.heads.model_keys import ModelKey
from flserver.store.reader import Row

NOT_STATED = "not stated"
STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def bom(run: Row, made: Row, licence: str | None) -> bytes:
    """A CycloneDX 1.6 ML-BOM, in JSON, of the model of a committed round (``made``, a row of v1_rounds).

    The model's digest, the round and the run_id follow from the events, the run's name does not; the rest is what the
    database and the operator say.
    """
    measured = [{"type": name, "value": repr(made[name])} for name in ("accuracy", "loss") if made[name] is not None]
    data = {
        "type": "dataset",
        "name": "the clients' own data",
        "description": f"{made['data_size']} samples, as they were counted, of {made['updates_accepted']} clients in "
        f"round {made['round']}; the server has not seen them",
    }
    told = {"strategy": run["strategy"], "server_version": run["server_version"]}
    component = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": run["run_id"],
        "version": f"round {made['round']}",
        "hashes": [{"alg": "SHA-256", "content": made["model_digest"].removeprefix("sha256:")}],
        "licenses": [{"license": {"name": licence or NOT_STATED}}],
        "modelCard": {
            "modelParameters": {"modelArchitecture": run["model"], "datasets": [data]},
            "quantitativeAnalysis": {"performanceMetrics": measured},
        },
        "properties": [{"name": f"flserver:{name}", "value": str(value)} for name, value in told.items()],
    }
    return canonical(
        {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": component}}
    )


def signature(digest: str, key: ModelKey) -> bytes:
    """The signature of the model with that SHA-256 (in hex), as model-signing writes it: a Sigstore bundle around a
    DSSE envelope around an in-toto statement about one file."""
    predicate = {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
        "resources": [{"name": ".", "algorithm": "sha256", "digest": digest}],
    }
    subject = {"name": MODEL, "digest": {"sha256": hashlib.sha256(bytes.fromhex(digest)).hexdigest()}}
    kind = {"_type": STATEMENT, "predicateType": "https://model_signing/signature/v1.0"}
    payload = canonical({**kind, "subject": [subject], "predicate": predicate})
    signed = key.sign(f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": hashlib.sha256(key.public_pem).hexdigest()}, "tlogEntries": []}
    media = "application/vnd.dev.sigstore.bundle.v0.3+json"
    return canonical({"mediaType": media, "verificationMaterial": material, "dsseEnvelope": envelope})
