"""The one list of dtypes that a model may hold: what each is called by torch, on the wire and in a checkpoint."""

from typing import Final, NamedTuple


class Dtype(NamedTuple):
    """``name`` is torch's, ``size`` in bytes an element; ``storage`` is the class in ``torch`` that a pickle names,
    ``code`` what a safetensors file says."""

    name: str
    size: int
    storage: str
    code: str


DTYPES: Final = {
    dtype.name: dtype
    for dtype in (
        Dtype("float64", 8, "DoubleStorage", "F64"),
        Dtype("float32", 4, "FloatStorage", "F32"),
        Dtype("float16", 2, "HalfStorage", "F16"),
        Dtype("bfloat16", 2, "BFloat16Storage", "BF16"),
        Dtype("int64", 8, "LongStorage", "I64"),
        Dtype("int32", 4, "IntStorage", "I32"),
        Dtype("int16", 2, "ShortStorage", "I16"),
        Dtype("int8", 1, "CharStorage", "I8"),
        Dtype("uint8", 1, "ByteStorage", "U8"),
        Dtype("bool", 1, "BoolStorage", "BOOL"),
    )
}
