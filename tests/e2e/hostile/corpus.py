"""All of the corpus: what outsiders send, and what participants do with their own names."""

from tests.e2e.hostile import bombs, claims, code, damage, frames, models, texts
from tests.e2e.hostile.inputs import Input, Speech, Upload

INPUTS: tuple[Input, ...] = (
    *code.INPUTS,
    *bombs.INPUTS,
    *frames.INPUTS,
    *texts.INPUTS,
    *claims.INPUTS,
    *damage.INPUTS,
)
UPLOADS: tuple[Upload, ...] = models.UPLOADS
SPEECHES: tuple[Speech, ...] = frames.SPEECHES

EVERYTHING: tuple[Input | Upload | Speech, ...] = (*INPUTS, *UPLOADS, *SPEECHES)
