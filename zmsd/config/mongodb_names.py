"""Names that MongoDB takes for databases and collections, found by trying them on MongoDB 6.0.

The manual's list (Reference > MongoDB Limits and Thresholds > Naming Restrictions) is shorter: further characters that
it names are refused by a mongod on Windows only.
"""

from __future__ import annotations

import re

_DATABASE_BYTES = 63
_NAMESPACE_BYTES = 255
"""Of database, dot and collection."""


def database_problem(name: str) -> str | None:
    """Return why a database of that name cannot be published; None if it can."""
    if found := re.search('[\0 "$./\\\\\ud800-\udfff]', name):
        return f"not a name that MongoDB takes for a database: it has {found[0]!r} in it"
    if not 0 < len(name.encode()) <= _DATABASE_BYTES:
        return f"not a name that MongoDB takes for a database: it has {len(name.encode())} bytes, not 1 to 63"
    if name in ("admin", "config", "local"):
        return f"{name} is MongoDB's own database, which cannot be published"
    return None


def collection_problem(name: str) -> str | None:
    """Return why MongoDB has no collection of that name to watch; None if it can have one."""
    if not name:
        reason = "it is empty"
    elif found := re.search("[$\0\ud800-\udfff]", name):
        reason = f"it has {found[0]!r} in it"
    elif name.startswith((".", "system.")) or ".system." in name:
        reason = "such names are MongoDB's own" if "system." in name else "it begins with a dot"
    elif len(name.encode()) > _NAMESPACE_BYTES - 2:
        reason = f"it has {len(name.encode())} bytes"
    else:
        return None
    return f"not a name that MongoDB takes for a collection: {name!r}: {reason}"


def path_problem(path: str) -> str | None:
    """Return why ``path`` does not lead to a field; None if it can."""
    parts = path.split(".")
    if all(part and not part.startswith("$") for part in parts) and not re.search("[\0\ud800-\udfff]", path):
        return None
    return f"not a path of names between dots: {path!r}: a name must not be empty, begin with $ or have a NUL in it"
