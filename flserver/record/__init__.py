"""The record as people read it, from Python and in notebooks. Nothing here imports torch before a model is asked for.

>>> from flserver import record
>>> with record.open("runs.sqlite") as r:
...     run = r.run("newest")
...     run.rounds().frame()          # a pandas.DataFrame, with the extra notebook
...     run.round(7).model()          # names to tensors
"""

from flserver.record.opened import Record as Record
from flserver.record.opened import Round as Round
from flserver.record.opened import Run as Run
from flserver.record.opened import open as open
from flserver.record.rows import Rows as Rows
