"""How the Java and the Rust program are built, tried with builds that take no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import builds


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources of its own, and an empty cache."""
    monkeypatch.setattr(builds, "HERE", tmp_path)
    monkeypatch.setattr(builds, "CACHE", tmp_path / "cache")
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "source").write_text("one")
    return tmp_path / "tool"


def copy(source: Path, into: Path) -> None:
    """A build."""
    into.mkdir()
    (into / "made").write_text((source / "source").read_text())


def never(source: Path, into: Path) -> None:
    """A build that must not be needed."""
    pytest.fail("built again")


def test_what_is_built_is_kept_until_its_sources_change(sources: Path) -> None:
    first = builds._built("tool", copy)
    assert builds._built("tool", never) == first and (first / "made").read_text() == "one"
    (sources / "source").write_text("two")
    second = builds._built("tool", copy)
    assert (second / "made").read_text() == "two" and not first.exists()


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(sources: Path) -> None:
    def broken(source: Path, into: Path) -> None:
        into.mkdir()
        builds._run(["sh", "-c", "echo the reason >&2; exit 3"], source)

    with pytest.raises(builds.BuildFailed, match=r"ended with 3: the reason"):
        builds._built("tool", broken)
    assert (builds._built("tool", copy) / "made").read_text() == "one"


def test_a_tool_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(builds.Unavailable, match="mvn and javac and java: not on PATH"):
        builds.java_command()
    with pytest.raises(builds.Unavailable, match="cargo and rustc: not on PATH"):
        builds.rust_command()


def test_a_registry_that_does_not_answer_is_no_failed_build(sources: Path) -> None:
    with pytest.raises(builds.Unavailable, match=r"the registry of Rust crates cannot be reached.*no answer"):
        builds._download("the registry of Rust crates", ["sh", "-c", "echo no answer >&2; exit 1"], sources)
