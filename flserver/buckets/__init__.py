"""An object store that speaks S3: the only home of botocore, which is imported with the first use.

What goes wrong is an OSError with a line for people as its ``strerror``: FileNotFoundError where there is no such
object or bucket, PermissionError where the store refuses, Unreachable where the same may be asked again.
"""

from flserver.buckets.client import Unreachable, close, patiently
from flserver.buckets.reading import ObjectReader, exists, listed, look
from flserver.buckets.writing import abort_uploads, put, refuses_other_bytes, remove

__all__ = [
    "ObjectReader",
    "Unreachable",
    "abort_uploads",
    "close",
    "exists",
    "listed",
    "look",
    "patiently",
    "put",
    "refuses_other_bytes",
    "remove",
]
