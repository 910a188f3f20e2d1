"""Values in the form that text can hold. (What is printable is tested with the console.)"""

import json
import math

import pytest

from flserver.text import json_number


@pytest.mark.parametrize(
    ("number", "written"),
    [(math.nan, '"NaN"'), (math.inf, '"Infinity"'), (-math.inf, '"-Infinity"'), (0.5, "0.5"), (-0.0, "-0.0")],
)
def test_a_number_that_json_does_not_have_is_a_text_that_float_reads(number: float, written: str) -> None:
    assert json.dumps(json_number(number), allow_nan=False) == written
    assert repr(float(json.loads(written))) == repr(number)
