"""How the suite is dealt to workers (`-n 2`): one file on one worker, the built graph's on one.

And where a test's records and keys go.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

GRAPH = "tests/pipeline/"  # its files share one built project (a session fixture, made once per worker that needs it)
ALONE = "test_strangers_job"  # builds its own

settings.register_profile(
    "busy", suppress_health_check=[HealthCheck.too_slow], deadline=None
)  # a busy machine is no failure
settings.load_profile("busy")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # before torch is imported: two workers of two threads on two cores wait for each other


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left with it at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(GRAPH))


def group_of(nodeid: str) -> str:
    """What one worker runs: a file, or everything that shares the built graph."""
    file = nodeid.partition("::")[0]
    return GRAPH if file.startswith(GRAPH) and ALONE not in file else file


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist nothing is dealt
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal by `group_of`.

    Not by `--dist loadgroup`: since pytest 9.2 the marks are silently ignored
    (pytest-dev/pytest-xdist issue 1386), and every worker builds the graph anew.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


@pytest.fixture(scope="session", autouse=True)
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the key that signs releases is made: never in the home of whoever runs the tests."""
    path = tmp_path_factory.mktemp("key") / "signing.key"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SO8T_KEY", str(path))
        yield path


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own for progress, ledger, journals and looks."""
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    return tmp_path / "database"
