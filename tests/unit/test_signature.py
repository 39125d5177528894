"""Signatures of releases: the key pair, what is signed, what is found, and the check with Python alone."""

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import signature
from so8t.errors import ArtifactError
from so8t.operations import verifier
from so8t.signature import CannotSign

ROOT = Path(__file__).parents[2]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private key of this test's own, in a folder that does not exist yet."""
    path = tmp_path / "home/.config/so8t/signing.key"
    monkeypatch.setenv("SO8T_KEY", str(path))
    return path


@pytest.fixture
def release(tmp_path: Path, key: Path) -> Path:
    """A signed release of three files, one of them in a folder."""
    folder = tmp_path / "project/models/release"
    (folder / "deep").mkdir(parents=True)
    for name in ("card.json", "b.gguf", "deep/語.txt"):
        (folder / name).write_text(name, encoding="utf-8")
    signature.prepare(tmp_path / "project")
    signature.sign(folder)
    return folder


def root(release: Path) -> Path:
    return release.parents[1]


# --- keys ---


@pytest.mark.skipif(os.name != "posix", reason="mode bits are POSIX's")
def test_a_new_private_key_is_for_its_owner_alone_whatever_the_umask(
    tmp_path: Path, key: Path
) -> None:
    old = os.umask(0)
    try:
        assert signature.prepare(tmp_path / "project") == ""
    finally:
        os.umask(old)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"BEGIN PRIVATE" in key.read_bytes()
    assert [path.name for path in key.parent.iterdir()] == ["signing.key"]


def test_preparing_again_changes_nothing(tmp_path: Path, key: Path) -> None:
    project = tmp_path / "project"
    signature.prepare(project)
    before = key.read_bytes(), (project / "release.pub").read_bytes()
    assert signature.prepare(project) == ""
    assert (key.read_bytes(), (project / "release.pub").read_bytes()) == before


def test_without_a_variable_the_key_is_in_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SO8T_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert signature.key_file() == tmp_path / ".config/so8t/signing.key"


def test_a_public_key_of_somebody_else_is_kept_named_and_nothing_is_signed(
    release: Path, key: Path
) -> None:
    before = [(root(release) / name).read_bytes() for name in ("release.pub", "release.sig")]
    key.unlink()
    said = signature.prepare(root(release))
    assert "release.pub is of another key" in said
    assert "remove release.pub" in said
    with pytest.raises(CannotSign, match="of another key"):
        signature.sign(release)
    after = [(root(release) / name).read_bytes() for name in ("release.pub", "release.sig")]
    assert after == before


def test_a_private_key_inside_the_project_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_KEY", str(tmp_path / "project/keys/signing.key"))
    with pytest.raises(CannotSign, match="inside the project"):
        signature.prepare(tmp_path / "project")
    assert not (tmp_path / "project/keys").exists()


def other_kind(path: Path) -> None:
    pem = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(pem)


def with_password(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path.write_bytes(pem)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(b""), "not an Ed25519 private key"),
        (lambda path: path.write_bytes(b"\xff\x00"), "not an Ed25519 private key"),
        (other_kind, "not an Ed25519 private key"),
        (with_password, "without a password"),
        (lambda path: path.chmod(0o644), "others can read"),
        (lambda path: path.unlink(), "no private key"),
    ],
)
def test_a_private_key_that_cannot_be_used_signs_nothing(
    release: Path, key: Path, spoil: Callable[[Path], None], says: str
) -> None:
    (release / "b.gguf").write_text("another model", encoding="utf-8")
    before = (root(release) / "release.sig").read_bytes()
    spoil(key)
    with pytest.raises(CannotSign, match=says) as refused:
        signature.sign(release)
    assert str(key) in str(refused.value)
    assert refused.value.fix
    assert (root(release) / "release.sig").read_bytes() == before


# --- what is signed ---


def test_the_fingerprint_is_what_openssl_and_sha256sum_say(release: Path) -> None:
    pem = (root(release) / "release.pub").read_text().splitlines()
    der = base64.b64decode(pem[1])
    import hashlib

    public = signature.read_public_key(root(release))
    assert signature.fingerprint(public) == hashlib.sha256(der).hexdigest()


def test_the_signature_holds_every_file_and_the_same_release_gives_the_same_bytes(
    release: Path,
) -> None:
    path = root(release) / "release.sig"
    first = path.read_bytes()
    held = json.loads(first)
    assert sorted(held["files"]) == ["b.gguf", "card.json", "deep/語.txt"]
    assert held["schema"] == "so8t.release-signature/1"
    assert signature.verify(release) == held["key"]
    signature.sign(release)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("folder", "where"),
    [
        ("p/models/release", "p"),
        ("stick/release", "stick"),
        ("p/models/sub/release", "p/models/sub"),
    ],
)
def test_signature_and_key_lie_where_git_keeps_them(
    tmp_path: Path, folder: str, where: str
) -> None:
    assert signature.root_of(tmp_path / folder) == tmp_path / where


# --- what is found ---


def link_to_nowhere(folder: Path) -> None:
    (folder / "b.gguf").unlink()
    (folder / "b.gguf").symlink_to(folder / "gone")


def linked_folder(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent, target_is_directory=True)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "b.gguf").write_text("x"), "b.gguf was changed"),
        (lambda f: (f / "deep/語.txt").write_text("x"), "deep/語.txt was changed"),
        (lambda f: (f / "card.json").unlink(), "card.json is missing"),
        (lambda f: (f / "deep/new").write_text(""), "deep/new is too many"),
        (link_to_nowhere, "neither a file nor a folder"),
        (linked_folder, "neither a file nor a folder"),
    ],
)
def test_a_release_that_is_not_as_it_was_signed_is_named(
    release: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(release)
    with pytest.raises(ArtifactError, match=says) as refused:
        signature.verify(release)
    assert refused.value.where
    assert refused.value.fix


def test_a_release_of_links_to_the_same_bytes_is_the_same_release(release: Path) -> None:
    """DVC may check out links to its cache."""
    aside = (release / "b.gguf").rename(release.parent / "object")
    (release / "b.gguf").symlink_to(aside)
    assert signature.verify(release)


DAMAGED: list[tuple[str, object]] = [
    ("schema", "so8t.release-signature/0"),
    ("schema", None),
    ("files", ["b.gguf"]),
    ("files", {"b.gguf": 1}),
    ("key", 5),
    ("signature", "###"),
    ("signature", base64.b64encode(b"short").decode()),
    ("signature", None),
]


@pytest.mark.parametrize(("field", "value"), DAMAGED)
def test_a_signature_of_another_form_is_refused(release: Path, field: str, value: object) -> None:
    path = root(release) / "release.sig"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ArtifactError, match="not a signature of schema"):
        signature.verify(release)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "\ud800"])
def test_a_signature_that_is_no_json_object_is_refused(release: Path, content: str) -> None:
    data = content.encode("utf-8", "surrogatepass")
    (root(release) / "release.sig").write_bytes(data)
    with pytest.raises(ArtifactError):
        signature.verify(release)


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_a_public_key_of_another_form_is_refused(release: Path, content: str) -> None:
    (root(release) / "release.pub").write_text(content)
    with pytest.raises(ArtifactError, match="not an Ed25519 public key"):
        signature.verify(release)


def test_digests_that_the_key_did_not_sign_are_refused(release: Path) -> None:
    (release / "b.gguf").write_text("another model", encoding="utf-8")
    path = root(release) / "release.sig"
    content = json.loads(path.read_text())
    content["files"] = signature.digests(release)
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="forged or damaged"):
        signature.verify(release)


def test_help_loads_no_cryptography() -> None:
    code = "import sys, so8t.operations.setup, so8t.operations.handing_over; print('cryptography' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "False"


# --- RFC 8032 in Python alone, against cryptography and the RFC's own vectors ---

VECTORS = [  # section 7.1: public key, message, signature
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("key", "text", "signed"), VECTORS)
def test_the_vectors_of_the_rfc_hold(key: str, text: str, signed: str) -> None:
    public, message, sig = (bytes.fromhex(value) for value in (key, text, signed))
    assert verifier.ed25519_holds(public, sig, message)
    assert not verifier.ed25519_holds(public, sig, message + b"x")


def theirs(public: bytes, sig: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(sig, message)
    except Exception:  # noqa: BLE001 (whatever it says, it did not hold)
        return False
    return True


@given(
    seed=st.binary(min_size=32, max_size=32),
    message=st.binary(max_size=80),
    place=st.integers(0, 64 * 8 - 1),
)
@settings(max_examples=60, deadline=None)
def test_python_alone_agrees_with_cryptography_on_good_and_on_damaged_signatures(
    seed: bytes, message: bytes, place: int
) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, sig = private.public_key().public_bytes_raw(), private.sign(message)
    assert verifier.ed25519_holds(public, sig, message)
    bit = (int.from_bytes(sig, "little") ^ 1 << place).to_bytes(64, "little")
    assert verifier.ed25519_holds(public, bit, message) is theirs(public, bit, message) is False
    assert not verifier.ed25519_holds(public, sig, message + b"\0")
    assert not verifier.ed25519_holds(public, sig[:63], message)


def test_the_other_form_of_s_is_refused_as_cryptography_does() -> None:
    private = Ed25519PrivateKey.generate()
    public, sig = private.public_key().public_bytes_raw(), private.sign(b"m")
    s = int.from_bytes(sig[32:], "little") + verifier.ORDER
    other = sig[:32] + s.to_bytes(32, "little")
    assert not verifier.ed25519_holds(public, other, b"m")
    assert not theirs(public, other, b"m")


@given(data=st.binary(min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_any_bytes_as_a_key_are_refused_and_never_fail(data: bytes) -> None:
    assert not verifier.ed25519_holds(data, b"\1" * 64, b"m")


def test_the_verifier_knows_the_key_as_we_do(release: Path) -> None:
    public = verifier.public_key(root(release))
    assert verifier.fingerprint(public) == signature.verify(release)
    held = signature.read(root(release))
    canonical = verifier.canonical({"schema": verifier.SCHEMA, "files": held.files})
    assert canonical == signature.message(held.files)
    assert verifier.ed25519_holds(public, held.signature, canonical)
