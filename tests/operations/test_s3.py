"""An S3 remote, against a local S3 server: push, a second clone pulls and answers, and a damaged object is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from so8t import manifest
from so8t.operations import fsck
from tests.fakes.clone import make_clone, run

pytest.importorskip("dvc_s3", reason="pip install so8t[s3]")
moto_server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytestmark = pytest.mark.slow
BUCKET, REGION = "so8t-test", "us-east-1"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", REGION),
    ):
        monkeypatch.setenv(name, value)
    running = moto_server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    running.stop()


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def test_a_clone_pulls_from_s3_what_the_first_one_pushed_and_answers(
    server: str, tmp_path: Path
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=server, region_name=REGION)
    client.create_bucket(Bucket=BUCKET)
    first = make_clone(tmp_path / "first")
    dvc(first, "remote", "add", "-d", "cloud", f"s3://{BUCKET}/store")
    dvc(first, "remote", "modify", "cloud", "endpointurl", server)
    dvc(first, "remote", "modify", "cloud", "verify", "true")
    run(first, "git", "commit", "-qam", "remote")
    dvc(first, "push", "-q")
    second = tmp_path / "elsewhere/second"
    run(tmp_path, "git", "clone", "-q", str(first), str(second))
    dvc(second, "pull", "-q")
    assert "up to date" in dvc(second, "status")
    assert manifest.digests(second / "models/release") == manifest.digests(first / "models/release")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        )
    }
    said = subprocess.run(
        [sys.executable, "-m", "so8t.cli", "ask", "--json", "要点をまとめてください。"],
        cwd=second,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(said.stdout)["decision"] in {"ALLOW", "ESCALATE", "DENY"}
    assert list(fsck.remote(second)) == []
    damage_largest_object(client)
    assert [f.place for f in fsck.remote(second)] == ["remote"]
    third = tmp_path / "third"
    run(tmp_path, "git", "clone", "-q", str(first), str(third))
    pulled = subprocess.run(
        [sys.executable, "-m", "dvc", "pull", "-q"], cwd=third, check=False, capture_output=True
    )
    assert pulled.returncode, "a damaged object was pulled without a word"
    shutil.rmtree(third)


def damage_largest_object(client: "object") -> None:
    listing = client.list_objects_v2(Bucket=BUCKET)["Contents"]  # type: ignore[attr-defined]
    name = max(listing, key=lambda item: item["Size"])["Key"]
    data = bytearray(client.get_object(Bucket=BUCKET, Key=name)["Body"].read())  # type: ignore[attr-defined]
    data[len(data) // 2] ^= 1
    client.put_object(Bucket=BUCKET, Key=name, Body=bytes(data))  # type: ignore[attr-defined]
