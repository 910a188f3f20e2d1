"""Of which sources this process is: two machines that work together are of the same."""

import hashlib
from pathlib import Path

import flserver


def digest_of_package() -> str:
    """``sha256:hex`` over this package's sources. In the package's folder the same is printed by
    ``find . -xtype f -name '[!.]*.py' -not -path './migrations/*' | LC_ALL=C sort | xargs sha256sum | sha256sum``.

    What an editor leaves beside them is none: hidden files, links that lead nowhere (Emacs's locks are both)."""
    root = Path(flserver.__file__).parent
    files = {
        f"./{path.relative_to(root).as_posix()}": path
        for path in root.rglob("*.py")
        if not path.name.startswith(".") and path.is_file()
    }
    lines = [
        f"{hashlib.sha256(files[name].read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(files)
        if not name.startswith("./migrations/")
    ]
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
