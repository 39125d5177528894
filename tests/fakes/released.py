"""Releases for tests: the numbers of the card inside the file, and signed with the key of the test session."""

import json
from pathlib import Path
from typing import Any

from so8t import card as cards
from so8t import signature
from so8t.files import sha256_json
from so8t.gguf.convert.keys import typed
from so8t.release.rewrite import rewrite_keys
from so8t.released import calibrated_keys


def write_inside(source: Path, card: cards.Card, out: Path) -> Path:
    """A copy of a GGUF file with the card's numbers in its keys, as the release stage makes it."""
    escalate = cards.float32_thresholds(card).escalate
    rewrite_keys(source, out, typed(calibrated_keys(cards.to_dict(card), escalate=escalate)))
    return out


def sign(folder: Path) -> None:
    """Sign a release with the session's key, whatever it holds."""
    signature.prepare(signature.root_of(folder))
    signature.sign(folder)


def forge(card_file: Path, **thresholds: Any) -> None:
    """Edit a card's thresholds and its certificate, and compute its digest again, as an attacker would."""
    content = json.loads(card_file.read_text(encoding="utf-8"))
    content["thresholds"] |= {"escalate": 1.0, "deny": 1.0, "allow": 0.0} | thresholds
    for stratum in content["certificate"]["strata"]:
        stratum["threshold"] = 1.0
    content["status"] = "certified"
    reseal(card_file, content)


def reseal(card_file: Path, content: dict[str, Any]) -> None:
    """Write a card with the digest that fits it."""
    body = {key: value for key, value in content.items() if key != "digest"}
    # A link to DVC's cache must not be written through.
    card_file.unlink()
    card_file.write_text(json.dumps(body | {"digest": sha256_json(body)}), encoding="utf-8")


def flip(path: Path) -> None:
    """Another byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def swap_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.unlink()
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


# --- what may be done to models/release; each takes the folder and leaves its signature as it was ---


def forged_card(folder: Path) -> None:
    forge(folder / "card.json")


def flipped_weights(folder: Path) -> None:
    flip(next(folder.glob("*.gguf")))


def flipped_modelfile(folder: Path) -> None:
    flip(folder / "Modelfile")


def edited_manifest(folder: Path) -> None:
    swap_json(folder / "release.json", think_tokens=100_000)


def file_too_many(folder: Path) -> None:
    (folder / "template.jinja").write_text("{{ messages }}", encoding="utf-8")


def file_missing(folder: Path) -> None:
    (folder / "Modelfile").unlink()


def card_that_is_a_folder(folder: Path) -> None:
    (folder / "card.json").unlink()
    (folder / "card.json").mkdir()


def edited_index(folder: Path) -> None:
    """Everything becomes familiar."""
    content = json.loads((folder / "familiarity.json").read_text(encoding="utf-8"))
    swap_json(folder / "familiarity.json", budget=content["budget"] / 1e6)


def index_missing(folder: Path) -> None:
    (folder / "familiarity.json").unlink()


def threads_as_text(folder: Path) -> None:
    content = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    content["engine"]["threads"] = "1"
    reseal(folder / "card.json", content)


def without_signature(folder: Path) -> None:
    (signature.root_of(folder) / signature.SIGNATURE).unlink()


def another_key(folder: Path) -> None:
    """Signed by somebody else, whose public key is not the project's."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    stranger = Ed25519PrivateKey.generate()
    files = signature.digests(folder)
    _write_signature(folder, files, stranger, signature.fingerprint(stranger.public_key()))


def another_key_under_our_name(folder: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    forged_card(folder)
    root = signature.root_of(folder)
    ours = signature.fingerprint(signature.read_public_key(root))
    _write_signature(folder, signature.digests(folder), Ed25519PrivateKey.generate(), ours)


def _write_signature(folder: Path, files: dict[str, str], key: Any, name: str) -> None:
    import base64

    content = {
        "schema": signature.SCHEMA,
        "files": files,
        "key": name,
        "signature": base64.b64encode(key.sign(signature.message(files))).decode(),
    }
    path = signature.root_of(folder) / signature.SIGNATURE
    path.write_text(json.dumps(content), encoding="utf-8")


# Fault, and what the message must say (where and what).
FAULTS = [
    (forged_card, "card.json was changed"),
    (flipped_weights, r"\.gguf was changed"),
    (flipped_modelfile, "Modelfile was changed"),
    (edited_manifest, "release.json was changed"),
    (file_too_many, "template.jinja is too many"),
    (file_missing, "Modelfile is missing"),
    (card_that_is_a_folder, "card.json is missing"),
    (threads_as_text, "card.json was changed"),
    (edited_index, "familiarity.json was changed"),
    (index_missing, "familiarity.json is missing"),
    (without_signature, "release.sig: the release is not signed"),
    (another_key, "release.sig: signed with another key"),
    (another_key_under_our_name, "release.sig: the signature is forged"),
]
IDS = [fault.__name__ for fault, _says in FAULTS]
