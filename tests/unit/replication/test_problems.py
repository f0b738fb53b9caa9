"""Problems of published names: found, logged once, and solved."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeSource, active, lines, table
from zmsd.errors import SourceRefused, SourceUnavailable
from zmsd.replication import problems as problems_module
from zmsd.replication.active_publication import ActivePublication
from zmsd.replication.problems import Problems
from zmsd.schema.catalog import Catalog
from zmsd.schema.publication import Publication


def publication(source: FakeSource, *names: str) -> ActivePublication:
    tables = tuple(table(f"t_{name}", name, "key") for name in names)
    return active(Publication(Catalog(tables)), source)


def kinds(problems: Problems) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in problems.current]


def test_collection_that_exists_has_no_problem_and_gets_images() -> None:
    source = FakeSource()
    source.existing = {"a": {}}
    problems = Problems()
    problems.check(source, publication(source, "a"))
    assert problems.current == ()
    assert source.images == {"a"}


def test_missing_collection_is_reported_once_and_its_solution_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source, problems = FakeSource(), Problems()
    published = publication(source, "a")
    for _ in range(2):
        problems.check(source, published)
    assert kinds(problems) == [("collection", "a")]
    (line,) = lines(caplog)
    assert "does not exist in database chat" in line
    assert problems.empty_tables == []
    source.existing = {"a": {}}
    problems.check(source, published)
    assert problems.current == ()
    assert lines(caplog) == ["problem of a published name solved name=a problem=collection"]


def test_view_is_a_problem_of_its_type() -> None:
    source, problems = FakeSource(), Problems()
    source.existing = {"a": {"type": "view"}}
    problems.check(source, publication(source, "a"))
    assert kinds(problems) == [("type", "a")]
    assert problems.empty_tables == [
        "a is a view, which has no change streams: its tables are empty until it is a collection"
    ]


def test_collection_without_images_has_the_reason() -> None:
    source, problems = FakeSource(), Problems()
    source.existing = {"a": {}, "b": {}}
    source.may_switch_images_on = False
    source.missing_images = {"a": SourceRefused("not authorized")}
    problems.check(source, publication(source, "a", "b"))
    assert [one.reason for one in problems.current] == [
        "has no pre- and post-images: not authorized",
        "has no pre- and post-images",
    ]
    source = FakeSource(stores_images=False)
    source.existing = {"a": {}}
    problems.check(source, publication(source, "a"))
    assert problems.current == (), "where the server stores none, zmsd works without them"


def test_another_publication_reports_its_own_problems(caplog: pytest.LogCaptureFixture) -> None:
    source, problems = FakeSource(), Problems()
    problems.check(source, publication(source, "a"))
    problems.check(source, publication(source, "a", "b"))
    assert kinds(problems) == [("collection", "a"), ("collection", "b")]
    assert len(lines(caplog)) == 3


def test_missing_field_is_searched_for_again_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    source, problems = FakeSource(), Problems()
    source.existing = {"a": {}}
    problems.check_fields(source)
    assert not source.asked, "nothing is published yet"
    problems.check(source, publication(source, "a"))
    source.answers = [[{"c0": "missing"}], [{"c0": "string"}]]
    problems.check_fields(source)
    (problem,) = problems.current
    assert (problem.kind, problem.name) == ("field", "t_a.id")
    assert "none of 1 sampled documents has: no row can be sent: it is in the primary key" in problem.reason
    problems.check_fields(source)
    assert len(source.asked) == 1, "not at once"
    monkeypatch.setattr(problems_module, "_SAMPLE_SECONDS", 0.0)
    problems._sample_at = 0.0
    problems.check_fields(source)
    assert problems.current == ()
    problems.check_fields(source)
    assert len(source.asked) == 2, "no more once all fields were found"


def test_sample_that_fails_is_not_repeated_at_once() -> None:
    """It may be costly for the server: the check runs every two seconds."""
    source, problems = FakeSource(), Problems()
    source.existing = {"a": {}}
    problems.check(source, publication(source, "a"))
    source.answers = [SourceUnavailable("out of memory")]
    with pytest.raises(SourceUnavailable):
        problems.check_fields(source)
    problems.check_fields(source)
    assert len(source.asked) == 1
    source.answers = [[{"c0": "string"}]]
    problems._sample_at = 0.0
    problems.check_fields(source)
    assert len(source.asked) == 2


def test_fields_are_not_searched_for_in_a_view() -> None:
    source, problems = FakeSource(), Problems()
    source.existing = {"a": {"type": "view"}}
    problems.check(source, publication(source, "a"))
    problems.check_fields(source)
    assert not source.asked
    assert kinds(problems) == [("type", "a")]


def test_failing_check_keeps_what_is_known() -> None:
    source, problems = FakeSource(), Problems()
    published = publication(source, "a")
    problems.check(source, published)
    source.trouble = SourceUnavailable("away")
    with pytest.raises(SourceUnavailable):
        problems.check(source, published)
    assert kinds(problems) == [("collection", "a")]
