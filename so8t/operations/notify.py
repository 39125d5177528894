"""Say that a long run has ended: SO8T_NOTIFY=off|bell|osc|sound|cmd:COMMAND. Never fails a stage, silent in CI.

`bell` rings the terminal, `osc` asks it for a desktop notification (OSC 9), `sound` plays the system's own sound,
`cmd:` runs a command of yours with the stage's name and outcome as its last two arguments.
"""

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping

log = logging.getLogger(__name__)
LONG_S = 60.0  # a shorter run ends while its starter still watches
SOUNDS = (("paplay", "/usr/share/sounds/freedesktop/stereo/complete.oga"), ("afplay", "/System/Library/Sounds/Glass.aiff"),
          ("powershell", "-c", "[System.Media.SystemSounds]::Asterisk.Play(); Start-Sleep 1"))


def notify(stage: str, outcome: str, seconds: float, environment: Mapping[str, str] = os.environ) -> str:
    """Notify in the way that SO8T_NOTIFY names; return what was done ("" for nothing)."""
    way = environment.get("SO8T_NOTIFY", "off")
    if way in ("", "off") or environment.get("CI") or seconds < LONG_S:
        return ""
    try:
        return _by(way, stage, outcome)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("SO8T_NOTIFY=%s did not work: %s", way, error)
        return ""


def _by(way: str, stage: str, outcome: str) -> str:
    if way == "bell":
        return _to_terminal("\a")
    if way == "osc":
        return _to_terminal(f"\033]9;so8t {stage}: {outcome}\a")
    if way == "sound":
        player = next((list(p) for p in SOUNDS if shutil.which(p[0])), None)
        return _start(player) if player else _to_terminal("\a")
    if way.startswith("cmd:"):
        return _start([*shlex.split(way[4:]), stage, outcome])
    raise ValueError("known: off, bell, osc, sound, cmd:COMMAND")


def _to_terminal(text: str) -> str:
    sys.stderr.write(text)
    sys.stderr.flush()
    return text


def _start(command: list[str]) -> str:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30, check=False)
    return " ".join(command)
