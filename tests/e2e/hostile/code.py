"""Code execution: every opcode with which a pickle can make its reader call something, and every place it can stand."""

import pickle
import struct
from collections.abc import Iterator

from tests.e2e.hostile.inputs import STRANGER, UNREGISTERED, Input, framed, pickled, upload, with_attribute
from tests.e2e.hostile.net import Command, fixed_net
from tests.wire.pickle_opcodes import call, file, instance, integer, mapping, module, name, raw, storage, tensor, text

SHELL = text("touch ran")
PYTHON = text("__import__('os').system('touch ran')")
SYSTEM = call("os", "system", SHELL)
WORDS = b"](" + text("touch") + text("ran") + b"e"
UNREAD = "opcode 0x.. at byte .* is not read"

# Extension codes of one, two and four bytes, as the test's plain reader has them in its registry.
EXTENSIONS = {0xF1: ("os", "system"), 0x1F2: ("posix", "system"), 0x1F2F3: ("subprocess", "getoutput")}


def said(module_name: str, qualname: str) -> bytes:
    """A name by STACK_GLOBAL."""
    return text(module_name) + text(qualname) + b"\x93"


def made(kind: str) -> bytes:
    """An object of one of the traps, by NEWOBJ."""
    return name("trap", kind) + b")\x81"


def applied(function: bytes, *arguments: bytes) -> bytes:
    """A call by REDUCE of whatever the opcodes ``function`` leave."""
    return function + b"(" + b"".join(arguments) + b"tR"


PLANTED = name("argparse", "Namespace") + b")\x81" + mapping(__setstate__=name("os", "system")) + b"b"

# Each leaves one value on the stack, and runs on the way there.
READ = {
    "GLOBAL of a module that acts when imported": name("trap_at_import", "Net"),
    "STACK_GLOBAL of a module that acts when imported": said("trap_at_import", "Net"),
    "REDUCE of os.system": SYSTEM,
    "REDUCE of posix.system": call("posix", "system", SHELL),
    "REDUCE of a STACK_GLOBAL": applied(said("os", "system"), SHELL),
    "REDUCE of a name from the memo": name("os", "system") + b"q\x630h\x63" + SHELL + b"\x85R",
    "REDUCE of a dotted STACK_GLOBAL below torch._utils": applied(said("torch._utils", "torch.os.system"), SHELL),
    "REDUCE of a dotted GLOBAL below torch._utils": call("torch._utils", "torch.os.system", SHELL),
    "REDUCE of a dotted name below torch.serialization": applied(said("torch.serialization", "os.system"), SHELL),
    "REDUCE of a class with __init__": call("trap", "Init"),
    "REDUCE of copyreg.__newobj__": call("copyreg", "__newobj__", name("trap", "New")),
    "REDUCE of builtins.eval": call("builtins", "eval", PYTHON),
    "REDUCE of builtins.exec": call("builtins", "exec", PYTHON),
    "REDUCE of builtins.__import__": call("builtins", "__import__", text("trap_at_import")),
    "REDUCE of importlib.import_module": call("importlib", "import_module", text("trap_at_import")),
    "REDUCE of pydoc.locate": call("pydoc", "locate", text("trap_at_import.Net")),
    "REDUCE of subprocess.check_call": call("subprocess", "check_call", WORDS),
    "REDUCE of timeit.timeit": call("timeit", "timeit", text("pass"), PYTHON),
    "REDUCE of torch.utils.collect_env.run": call("torch.utils.collect_env", "run", SHELL),
    "REDUCE of torch.jit's execWrapper": call("torch.jit.unsupported_tensor_ops", "execWrapper", PYTHON, b"}", b"}"),
    "REDUCE of pickle.loads": call("pickle", "loads", raw(pickled(SYSTEM))),
    "REDUCE of getattr of an import": applied(
        call("builtins", "getattr", call("builtins", "__import__", text("os")), text("system")), SHELL
    ),
    "REDUCE of a functools.partial": applied(call("functools", "partial", name("os", "system"), SHELL)),
    "REDUCE of a list of a map": call(
        "builtins", "list", call("builtins", "map", name("os", "system"), b"](" + SHELL + b"e")
    ),
    "REDUCE of operator.methodcaller": applied(
        call("operator", "methodcaller", text("system"), SHELL), call("importlib", "import_module", text("os"))
    ),
    "REDUCE within REDUCE within REDUCE": call("builtins", "str", call("builtins", "repr", SYSTEM)),
    "NEWOBJ": made("New"),
    "NEWOBJ_EX": name("trap", "New") + b")}\x92",
    "BUILD of a class with __setstate__": made("State") + b"}b",
    "BUILD of a class with __getattr__": made("Attribute") + b"}b",
    "BUILD of a class with a setter": made("Setter") + b"N" + mapping(number=b"K\x01") + b"\x86b",
    "APPEND": made("Items") + b"Na",
    "APPENDS": made("Items") + b"(NNe",
    "SETITEM": made("Items") + b"NNs",
    "SETITEMS": made("Items") + b"(NNNNu",
    "ADDITEMS": made("Items") + b"(NN\x90",
    "SETITEM of a key with __hash__": b"}" + made("Key") + b"Ns",
    "ADDITEMS of an item with __hash__": b"\x8f(" + made("Key") + b"\x90",
    "FROZENSET of an item with __hash__": b"(" + made("Key") + b"\x91",
    "POP of an object with __del__": made("Last") + b"0N",
    "POP_MARK of an object with __del__": b"(" + made("Last") + b"1N",
}  # fmt: skip

NOT_READ = {
    "INST of os.system": b"(" + SHELL + b"ios\nsystem\n",
    "OBJ of os.system": b"(" + name("os", "system") + SHELL + b"o",
    "EXT1": applied(b"\x82" + struct.pack("<B", 0xF1), SHELL),
    "EXT2": applied(b"\x83" + struct.pack("<H", 0x1F2), SHELL),
    "EXT4": applied(b"\x84" + struct.pack("<I", 0x1F2F3), SHELL),
    "PERSID": b"Ptouch ran\n",
}


def _acts() -> Iterator[Input]:
    for what, opcodes in READ.items():
        yield _input(what, upload(with_attribute(opcodes)), UNREGISTERED)
    for what, opcodes in NOT_READ.items():
        yield _input(what, upload(with_attribute(opcodes)), UNREAD)
    yield _input("BINPERSID", upload(with_attribute(SHELL + b"Q")), "a persistent id outside a storage's file")
    yield _input("BUILD of a planted __setstate__", upload(with_attribute(PLANTED + SHELL + b"b")), "a state twice")
    old_name = call("__builtin__", "eval", PYTHON)
    yield _input("REDUCE under the name of Python 2", upload(with_attribute(old_name), protocol=2), UNREGISTERED)
    for opcode in (b"\x97", b"\x98"):
        what = f"the out-of-band buffer opcode 0x{opcode.hex()}"
        yield _input(what, upload(with_attribute(b"N" + opcode)), UNREAD, armed=False)


def _places() -> Iterator[Input]:
    """One act, wherever a pickle can hold it."""
    good = module({"w": tensor()})
    child = name("neural_net_helper", "NeuralNet")
    bodies = {
        "as the whole body": (framed(pickled(SYSTEM)), "a call of os.system is not a message"),
        "as the header": (upload(good, header=SYSTEM), "without a header"),
        "as the id": (upload(good, id=SYSTEM), "an object is not a client id"),
        "as another field": (upload(good, note=SYSTEM), UNREGISTERED),
        "as the metrics": (upload(good, metrics=SYSTEM), UNREGISTERED),
        "as a metric": (upload(good, metrics=mapping(loss=SYSTEM)), UNREGISTERED),
        "as the model": (upload(SYSTEM), "a call of os.system is not a module"),
        "as a parameter": (upload(module({"w": SYSTEM})), "w: a tensor made by os.system is not read"),
        "as a buffer": (upload(module(buffers={"w": SYSTEM})), "w: a tensor made by os.system is not read"),
        "as a child": (upload(module(modules={"c": SYSTEM})), "c: a call of os.system is not a module"),
        "as a child's attribute": (upload(module(modules={"c": with_attribute(SYSTEM)})), UNREGISTERED),
        "as the parameters": (upload(instance(mapping(_parameters=SYSTEM, _buffers=b"}", _modules=b"}"))), "lacks"),
        "as the children": (upload(instance(mapping(_parameters=b"}", _buffers=b"}", _modules=SYSTEM))), "lacks"),
        "as the state": (upload(instance(SYSTEM)), "is not a module as torch pickles it"),
        "as the class": (upload(SYSTEM + b")\x81" + mapping(_parameters=b"}") + b"b"), "is not a module"),
        "as the class's arguments": (upload(child + SYSTEM + b"\x85\x81}b"), "lacks"),
        "as a tensor's storage": (upload(module({"w": tensor(SYSTEM)})), "a call of os.system is not a storage"),
        "as a tensor's shape": (upload(module({"w": _rebuilt(SYSTEM, integer(1) + b"\x85")})), "its shape"),
        "as a tensor's stride": (upload(module({"w": _rebuilt(integer(4) + b"\x85", SYSTEM)})), "its stride"),
        "as a tensor's hooks": (upload(module({"w": _rebuilt(integer(4) + b"\x85", integer(1) + b"\x85", SYSTEM)})),
                                UNREGISTERED),
        "as a key": (upload(with_attribute(b"}" + SYSTEM + b"Ns")), UNREGISTERED),
        "as a name's module": (upload(with_attribute(SYSTEM + text("x") + b"\x93")), "a name that is not text"),
        "in place of a storage's file": (_stored(pickled(SYSTEM)), "are left"),
        "as a storage's magic number": (_stored(pickled(SYSTEM) + file()[14:]), "torch writes it|not a pickle"),
        "as a storage's system": (_stored(file(system=SYSTEM)), "little-endian"),
        "as a storage": (_stored(file(what=SYSTEM)), "a call of os.system instead of a storage"),
        "as a storage's persistent id": (_stored(file(what=SYSTEM + b"Q")), "instead of a storage"),
        "as a storage's keys": (_stored(file(keys=SYSTEM)), "other storages"),
        "in a storage in a storage": (_stored(file(what=storage(file(system=SYSTEM)))), "instead of a storage"),
        "in a storage of an attribute": (upload(with_attribute(storage(file(system=SYSTEM)))), UNREGISTERED),
        "as a module of a class that acts when imported": (
            upload(name("trap_at_import", "Net") + b")\x81" + mapping(_parameters=b"}", _buffers=b"}", _modules=b"}")
                   + b"b"),
            UNREGISTERED,
        ),
    }  # fmt: skip
    for place, (wire, reason) in bodies.items():
        yield _input(f"a command {place}", wire, reason)


def _rebuilt(shape: bytes, stride: bytes, hooks: bytes = b"}") -> bytes:
    return call("torch._utils", "_rebuild_tensor_v2", storage(file()), integer(0), shape, stride, b"\x89", hooks)


def _stored(payload: bytes) -> bytes:
    return upload(module({"w": tensor(storage(payload))}))


def _real() -> Iterator[Input]:
    """What Python itself writes of an object with ``__reduce__``, alone and in a whole model's attribute."""
    net = fixed_net()
    net.odd = Command()
    for protocol in range(6):
        message = {"header": "<MODEL>", "id": STRANGER, "model": Command()}
        reason = r"byte 0x" if protocol < 2 else r"a call of posix\.system is not a module"
        yield _input(f"__reduce__ in protocol {protocol}", framed(pickle.dumps(message, protocol)), reason)
        message["model"] = net
        reason = r"byte 0x|where at most" if protocol < 2 else UNREGISTERED
        what = f"__reduce__ in a model's attribute in protocol {protocol}"
        yield _input(what, framed(pickle.dumps(message, protocol)), reason)


def _input(what: str, wire: bytes, reason: str, armed: bool = True) -> Input:
    return Input(name=f"code: {what}", klass="code", wire=wire, reason=reason, armed=armed)


INPUTS: tuple[Input, ...] = (*_acts(), *_places(), *_real())
