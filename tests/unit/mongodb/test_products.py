"""Products that speak MongoDB's protocol; README.rst, ``zmsd check`` and ``zmsd run`` agree on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zmsd.commands.check_mongodb import support_findings
from zmsd.errors import SourceRefused
from zmsd.mongodb.deployment import Deployment, ask
from zmsd.mongodb.products import (
    ATLAS,
    AZURE_DOCUMENTDB,
    COSMOS,
    DOCUMENTDB,
    FERRETDB,
    MONGODB,
    NEWER,
    PERCONA,
    PRODUCTS,
    SHARDED,
    Product,
    identify,
)

README = Path(__file__).parents[3] / "README.rst"


@pytest.mark.parametrize(
    ("build_info", "host", "version", "product"),
    [
        ({}, "127.0.0.1", (5, 0, 4), MONGODB),
        ({}, "db.example.org", (6, 0, 5), MONGODB),
        ({}, "db.example.org", (7, 0, 28), MONGODB),
        ({}, "db.example.org", (6, 3, 0), NEWER),
        ({}, "db.example.org", (8, 0, 4), NEWER),
        ({}, "mongodb.net.example.org", (7, 0, 28), MONGODB),
        ({}, "cluster0-shard-00-01.a1b2c.mongodb.net", (7, 0, 28), ATLAS),
        ({"psmdbVersion": "7.0.28-15"}, "db.example.org", (7, 0, 28), PERCONA),
        ({}, "one.cluster-c1.eu-central-1.docdb.amazonaws.com", (5, 0, 0), DOCUMENTDB),
        ({}, "one.eu-central-1.docdb-elastic.amazonaws.com", (5, 0, 0), DOCUMENTDB),
        ({}, "One.Mongo.Cosmos.Azure.com", (7, 0, 0), COSMOS),
        ({}, "fc-1-000.mongocluster.cosmos.azure.com", (8, 0, 0), AZURE_DOCUMENTDB),
        ({"ferretdbVersion": "v1.24.0"}, "127.0.0.1", (7, 0, 42), FERRETDB),
        ({"ferretdb": {"version": "v2.1.0"}}, "127.0.0.1", (7, 0, 77), FERRETDB),
    ],
)
def test_product_is_known_by_its_hosts_or_build_info(
    build_info: dict[str, Any], host: str, version: tuple[int, ...], product: Product
) -> None:
    assert identify(build_info, ["localhost", host], version) is product


def test_unsupported_product_is_refused_behind_a_tunnel() -> None:
    """The URI has only the tunnel's address, but the reply to hello has the names of the hosts."""

    def primary(command: dict[str, Any]) -> dict[str, Any]:
        return {"setName": "rs0", "hosts": ["one.cluster-c1.docdb.amazonaws.com:27017"], "versionArray": [5, 0, 0, 0]}

    def read(command: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("no stream is opened there")

    found = ask(primary, read, ["127.0.0.1"])
    assert found.product is DOCUMENTDB
    with pytest.raises(SourceRefused, match="this is Amazon DocumentDB: not supported because "):
        found.check()


@pytest.mark.parametrize("product", [MONGODB, NEWER, ATLAS, PERCONA])
def test_supported_and_untested_products_are_not_refused(product: Product) -> None:
    Deployment((8, 0, 0), set_name="rs0", product=product).check()


def test_check_reports_what_has_not_been_tested() -> None:
    def texts(**fields: Any) -> list[tuple[str, str]]:
        return [(one.level, one.text) for one in support_findings(Deployment((8, 0, 4), **fields))]

    assert texts(product=MONGODB) == []
    assert texts(product=NEWER) == [("warning", "support: MongoDB 8.0.4: written for, not tested")]
    assert texts(product=ATLAS) == [("warning", "support: MongoDB Atlas: written for, not tested")]
    assert texts(product=MONGODB, sharded=True) == [("warning", f"support: sharded cluster: {SHARDED.words}")]


def test_readme_and_check_agree_on_each_product() -> None:
    text = " ".join(README.read_text().split())
    for product in PRODUCTS:
        assert product.name in text, product.name
        assert product.words in text, product.words
