"""No telemetry, no look-ups on a network, no chatter of dependencies: set before any of them is imported."""

import logging
import os
import warnings

OFF = (
    "HF_HUB_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
    "DVC_NO_ANALYTICS",
    "DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE",
)
NOISE = ("bitsandbytes.backends.cpu.ops",)  # an optional kernel package that it looks for


def quieten() -> None:
    """Set what is not set yet; a user's own environment wins."""
    for key in OFF:
        os.environ.setdefault(key, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # spinning threads take the core from the other ones
    warnings.filterwarnings(
        "ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning
    )
    for name in NOISE:
        logging.getLogger(name).setLevel(logging.ERROR)
