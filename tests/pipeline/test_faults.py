"""Six faults on the built project (the nightly form has 24: `make chaos`): each run recovers to the same digests."""

import random
import shutil
from pathlib import Path

import pytest

from tests.pipeline.chaos import FAULTS, STAGES, choose, strike

pytestmark = pytest.mark.pipeline
SIX = [
    ("synthesize", "kill_all"),
    ("quantize@b-Q8_0", "disk_full"),
    ("convert@b", "read_only"),
    ("quantize@a-Q4_K_M", "power_cut"),
    ("calibrate@b-Q4_K_M", "bit_rot"),
    ("release", "half_push"),
]


@pytest.fixture(scope="module")
def struck(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "project"
    shutil.copytree(project, folder, symlinks=True)
    return folder


@pytest.mark.parametrize(("stage", "fault"), SIX)
def test_a_stage_recovers_from_a_fault_to_the_same_digests(
    struck: Path, stage: str, fault: str
) -> None:
    outcome = strike(struck, stage, fault, random.Random(f"{stage} {fault}"))
    if outcome.seen.startswith("skipped"):
        pytest.skip(outcome.seen)
    assert outcome.same, outcome


def test_the_nightly_form_covers_every_stage_and_every_fault() -> None:
    pairs = list(choose(24, random.Random(1)))
    assert {stage for stage, _ in pairs} == set(STAGES)
    assert {fault for _, fault in pairs} == set(FAULTS)
    assert len(set(pairs)) == 24
