"""The products that speak MongoDB's protocol, and what is known of zmsd with each.

The section "Versions of MongoDB" of README.rst says the same in the same words. Names of hosts and fields of the reply
to buildInfo distinguish the products, as in mongodb-js/devtools-shared, packages/mongodb-build-info, and in
mongodb/mongo-go-driver, logTopologyThirdPartyUsage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from zmsd.bson_types import Document

TESTED_VERSIONS = ((5, 0), (6, 0), (7, 0))
"""Versions of MongoDB with which ``make compat-mongodb`` was run."""
_UNTESTED = "written for, not tested"


class Product(NamedTuple):
    """A product, and what is known of zmsd with it."""

    name: str
    support: Literal["tested", "untested", "unsupported"]
    words: str
    """``tested``; ``written for, not tested``; ``not supported because …``."""


MONGODB = Product("MongoDB", "tested", "tested")
NEWER = Product("MongoDB", "untested", _UNTESTED)
ATLAS = Product("MongoDB Atlas", "untested", _UNTESTED)
PERCONA = Product("Percona Server for MongoDB", "untested", _UNTESTED)
SHARDED = Product("sharded cluster", "untested", "not supported until its checker has run: make sharded")
"""Not refused, because ``make sharded`` runs zmsd there."""
# https://docs.aws.amazon.com/documentdb/latest/developerguide/change_streams.html, "Supported operations"
DOCUMENTDB = Product(
    "Amazon DocumentDB",
    "unsupported",
    "not supported because its change streams have no pre- and post-images, only documents as they are now",
)
# https://learn.microsoft.com/azure/cosmos-db/mongodb/change-streams
COSMOS = Product("Azure Cosmos DB", "unsupported", "not supported because its change streams have no deletes")
# https://learn.microsoft.com/azure/cosmos-db/mongodb/vcore/change-streams
AZURE_DOCUMENTDB = Product(
    "Azure DocumentDB",
    "unsupported",
    "not supported because it is another implementation, and zmsd relies on MongoDB's own resume tokens",
)
# https://github.com/FerretDB/FerretDB/issues/175
FERRETDB = Product("FerretDB", "unsupported", "not supported because it has no change streams")

PRODUCTS = (MONGODB, NEWER, ATLAS, PERCONA, SHARDED, DOCUMENTDB, COSMOS, AZURE_DOCUMENTDB, FERRETDB)

_DOMAINS = {  # the longer suffix first
    ".mongodb.net": ATLAS,
    ".mongocluster.cosmos.azure.com": AZURE_DOCUMENTDB,
    ".cosmos.azure.com": COSMOS,
    ".docdb.amazonaws.com": DOCUMENTDB,
    ".docdb.amazonaws.com.cn": DOCUMENTDB,
    ".docdb-elastic.amazonaws.com": DOCUMENTDB,
}
_FIELDS = {"ferretdbVersion": FERRETDB, "ferretdb": FERRETDB, "psmdbVersion": PERCONA}
"""Fields of buildInfo: FerretDB 1 and 2, and Percona Server for MongoDB."""


def identify(build_info: Document, hosts: Iterable[str], version: Sequence[int]) -> Product:
    """Return the product that a deployment is; a sharded cluster of MongoDB counts as MongoDB.

    :param build_info: the reply to buildInfo
    :param hosts: names of hosts without ports, from the URI and from the reply to hello
    :param version: the version of MongoDB that it reports
    """
    for field, product in _FIELDS.items():
        if field in build_info:
            return product
    for host in hosts:
        for domain, product in _DOMAINS.items():
            if host.lower().endswith(domain):
                return product
    return MONGODB if tuple(version[:2]) in TESTED_VERSIONS else NEWER
