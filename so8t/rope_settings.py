"""The rope settings of a config.json as one table, and what of them llama.cpp does not follow.

Rope is the rotary position embedding: queries and keys are rotated by an angle that grows with the
position. Its kinds stretch the context. transformers fills gaps in these settings and warns of
nonsense, llama.cpp has defaults of its own: so each number that both compute with must be stated,
must make sense, and must be one that llama.cpp really reads. `tests/parity/test_gguf_logits.py`
runs each kind in both.
"""

import math
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]  # a JSON object

# The kinds, with the settings that each needs.
ROPE_KINDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
    "longrope": ("short_factor", "long_factor"),
}
# Settings that transformers 4 wrote at the top level of config.json.
TOP_LEVEL = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
TABLES = ("rope_parameters", "rope_scaling")
# What llama.cpp computes YaRN with, whatever a file says.
YARN_FIXED = {"beta_fast": 32.0, "beta_slow": 1.0, "extrapolation_factor": 1.0}
CLOSE = 1e-6  # relative; settings that are written as decimals


def settings_of(config: Json) -> Json:
    """Rope settings as one table.

    transformers 4 wrote `rope_scaling` and keys at the top level, transformers 5 writes
    `rope_parameters`; models of both are about. Where both are there, transformers takes
    `rope_scaling`; `contradictions` says whether that matters.
    """
    rope: Json = {}
    for key in TABLES:
        table = config.get(key)
        if isinstance(table, dict):
            rope |= table
    for key in TOP_LEVEL:
        if rope.get(key) is None and config.get(key) is not None:
            rope[key] = config[key]
    return rope


def kind_of(rope: Json) -> str:
    """default, linear, yarn, llama3, longrope, or a kind that is not known here."""
    stated = rope.get("rope_type") or rope.get("type") or "default"
    kind = str(stated).lower()
    # The name that Phi-3's first configs gave to longrope.
    return "longrope" if kind == "su" else kind


def contradictions(config: Json) -> list[str]:
    """Places of a config.json that say different things about rope, one sentence each."""
    found = []
    tables = []
    for name in TABLES:
        table = config.get(name)
        if table is not None and not isinstance(table, dict):
            found.append(f"{name} is not an object")
        elif table:
            tables.append(table)
    merged = settings_of(config)
    for key, value in merged.items():
        # Some models have one table for each kind of layer; a GGUF file has one.
        if isinstance(value, dict):
            found.append(f"rope settings by kind of layer ({key}) are not supported")
    places = [*tables, {key: config[key] for key in TOP_LEVEL if key in config}]
    for key in sorted(merged):
        stated = [table[key] for table in places if table.get(key) is not None]
        if any(value != stated[0] for value in stated[1:]):
            found.append(f"config.json states {key} twice: {stated}")
    if len(tables) == len(TABLES) and kind_of(tables[0]) != kind_of(tables[1]):
        found.append(f"{TABLES[0]} and {TABLES[1]} are of different kinds")
    return found


def problems(rope: Json, dims: int, max_context: int) -> list[str]:
    """What is missing, makes no sense or is not followed, one sentence each.

    Args:
        rope: from `settings_of`; its kind is one of `ROPE_KINDS`.
        dims: rotated dimensions of a head.
        max_context: the context that config.json claims, in tokens.
    """
    kind = kind_of(rope)
    if dims <= 0 or dims % 2:
        return [f"rope rotates pairs, and {dims} dimensions of a head are rotated"]
    found = _out_of_range(rope)
    missing = [key for key in _needs(kind) if rope.get(key) is None]
    if missing:
        found.append(f"rope {kind} needs {', '.join(missing)}")
    if found:
        return found
    if kind == "yarn":
        return _yarn_problems(rope)
    if kind == "llama3" and not rope["low_freq_factor"] < rope["high_freq_factor"]:
        return ["rope llama3 needs low_freq_factor below high_freq_factor"]
    if kind == "longrope":
        return _longrope_problems(rope, dims, max_context)
    return []


def _needs(kind: str) -> Iterable[str]:
    return ROPE_KINDS[kind]


def _out_of_range(rope: Json) -> list[str]:
    """Numbers that are none, or that nothing can be computed with."""
    found = []
    least = {
        "factor": 1.0,
        "rope_theta": 1.0,
        "original_max_position_embeddings": 1.0,
        "low_freq_factor": CLOSE,
        "high_freq_factor": CLOSE,
        "partial_rotary_factor": CLOSE,
    }
    for key, limit in least.items():
        value = rope.get(key)
        if value is not None and not (_is_number(value) and value >= limit):
            shown = "above 0" if limit == CLOSE else f"at least {limit:g}"
            found.append(f"rope setting {key} must be a number, {shown}; it is {value!r}")
    share = rope.get("partial_rotary_factor")
    if isinstance(share, float) and share > 1:
        found.append(f"partial_rotary_factor {share} is above 1")
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def yarn_attention_factor(factor: float) -> float:
    """What llama.cpp and transformers multiply attention scores with (arXiv 2309.00071, 3.4)."""
    return 0.1 * math.log(factor) + 1


def longrope_attention_factor(max_context: int, original: int) -> float:
    """Factor on the attention scores: sqrt(1 + ln(scale) / ln(original context)).

    LongRoPE, https://arxiv.org/abs/2402.13753; the same lines are in transformers'
    `modeling_rope_utils.py`.
    """
    scale = max_context / original
    if scale <= 1:
        return 1.0
    return math.sqrt(1 + math.log(scale) / math.log(original))


def _yarn_problems(rope: Json) -> list[str]:
    """Settings of YaRN that transformers follows and llama.cpp does not."""
    found = []
    # llama.cpp multiplies a stated attention factor with its own; beta it takes from the caller.
    wanted = YARN_FIXED | {"attention_factor": yarn_attention_factor(rope["factor"])}
    for key, value in wanted.items():
        stated = rope.get(key)
        if stated is not None and not _is_close(stated, value):
            found.append(f"yarn is only followed with {key} {value:g}; it is {stated}")
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        found.append("yarn with mscale and mscale_all_dim is not followed")
    if rope.get("truncate") is False:
        found.append("yarn with truncate false is not followed")
    return found


def _is_close(stated: Any, value: float) -> bool:
    return _is_number(stated) and math.isclose(stated, value, rel_tol=CLOSE)


def _longrope_problems(rope: Json, dims: int, max_context: int) -> list[str]:
    found = []
    wanted = dims // 2
    for key in _needs("longrope"):
        factors = rope[key]
        size = len(factors) if isinstance(factors, list) else 0
        if size != wanted:
            found.append(f"{key} has {size} numbers, {wanted} are needed")
        elif not all(_is_number(factor) and factor > 0 for factor in factors):
            found.append(f"{key} has numbers that are not above 0")
    original = int(rope.get("original_max_position_embeddings") or max_context)
    # Neither is written into a file: llama.cpp is told what follows from the two contexts.
    followed = {
        "factor": max_context / original,
        "attention_factor": longrope_attention_factor(max_context, original),
    }
    for key, value in followed.items():
        stated = rope.get(key)
        if stated is not None and not _is_close(stated, value):
            found.append(f"longrope is only followed with {key} {value:g}; it is {stated}")
    return found
