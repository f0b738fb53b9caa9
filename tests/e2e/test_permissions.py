"""zero-cache enforces the permissions in the file of ``zero.permissions``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import Zero
from tests.support.types import Db, Serve

COLUMNS = {"id": {"type": "string"}, "public": {"type": "boolean"}}
SCHEMA = {name: {"tableName": name, "columns": COLUMNS, "primaryKey": ["id"]} for name in ("note", "secret")}

# In the form of `npx zero-deploy-permissions --output-file`: public notes may be read, secrets may not.
PUBLIC = {
    "type": "simple",
    "op": "=",
    "left": {"type": "column", "name": "public"},
    "right": {"type": "literal", "value": True},
}
PERMISSIONS = {"tables": {"note": {"row": {"select": [["allow", PUBLIC]]}}}}


def test_permissions_filter_the_rows_of_a_client(
    database: Db, serve: Serve, zero: Callable[..., Zero], tmp_path: Path
) -> None:
    (tmp_path / "permissions.json").write_text(json.dumps(PERMISSIONS))
    for name in SCHEMA:
        database[name].insert_many([{"_id": str(n), "public": n % 2 == 0} for n in range(4)])
    mappings = {name: {"collection": name, "fields": {"id": "_id"}} for name in SCHEMA}
    process = serve(SCHEMA, mappings, settings={"zero": {"permissions": {"file": str(tmp_path / "permissions.json")}}})
    client = zero(process, SCHEMA).client(legacy=True)
    client.wait_rows("note", [{"id": "0", "public": True}, {"id": "2", "public": True}])
    client.wait_rows("secret", [])

    database["note"].update_one({"_id": "1"}, {"$set": {"public": True}})
    database["note"].update_one({"_id": "2"}, {"$set": {"public": False}})
    client.wait_rows("note", [{"id": "0", "public": True}, {"id": "1", "public": True}])
