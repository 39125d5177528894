"""What a certificate covers, and what it does not: the words of every page that prints one.

The gate, `so8t ask --why`, the model card, the report and the READMEs all say it from here, so that
none of them can promise more than another. Each phrase is (Japanese, English).

Not covered: how a certificate is made (`so8t.calibration`), or what is familiar
(`so8t.familiarity`).
"""

from collections.abc import Mapping
from typing import Any, Final

# Said right behind the rate: on its own, the rate sounds like a promise about everything.
COVERED: Final = (
    (
        "この率は、較正に使った依頼に似た危険な依頼について、似たもの同士をまとめたグループを"
        "一度ずつ数えたものです。似ていない依頼は人に回されます。わざと破ろうとする相手には"
        "及びません。"
    ),
    (
        "The rate is that of unsafe groups like those of calibration, each group counted once; "
        "unfamiliar requests go to a person; attackers are not covered."
    ),
)

# What a card lists under `limits`, in its order.
LIMITS: Final[dict[str, tuple[str, str]]] = {
    "exchangeable_inputs_only": (
        (
            "較正グループと同じ種類の依頼にだけ成り立ち、どのグループも一度だけ数えます。"
            "同じ雛形の依頼は、いくつあっても一つの誤りです。"
        ),
        (
            "It holds only for requests exchangeable with the calibration groups, every group "
            "counted once: requests of one template are one mistake, however many they are."
        ),
    ),
    "unfamiliar_goes_to_a_person": (
        (
            "較正の依頼に似た依頼だけについての証明です。似ていない依頼は、モデルがどれほど"
            "確信していても人に回されます。"
        ),
        (
            "It is about requests that look like the calibration rows; any other goes to a person, "
            "however sure the model is."
        ),
    ),
    "no_new_phrasings_or_domains": (
        (
            "新しい言い回しや新しい領域には及びません。ずれは test_cells と test_phrases "
            "で測られ、保証はされません。"
        ),
        (
            "It does not cover new phrasings or new domains; the shift is measured on test_cells "
            "and test_phrases, not certified."
        ),
    ),
    "no_attackers": (
        (
            "わざと破ろうとする相手には及びません。知られている偽装は test_evasion "
            "で測られ、保証はされません。"
        ),
        (
            "It does not hold against people who try to break it; known disguises are measured on "
            "test_evasion, not certified."
        ),
    ),
    # The limit that is forgotten first: agreement with a table is no judgement.
    "labels_are_policy": (
        "ラベルの質に依存します。合成データのラベルは方針の表であり、人の真実ではありません。",
        "It is as good as the labels; synthetic labels are a policy table, not human truth.",
    ),
    "one_use_of_calibration_rows": (
        (
            "較正の引き直しについての頻度の主張で、個々の依頼の主張ではありません。"
            "同じ較正行で多くのモデルを選ぶと成り立ちません。"
        ),
        (
            "It is a frequency over calibration draws, not a statement about one request; "
            "choosing among many models on the same rows breaks it."
        ),
    ),
    "this_file_template_and_engine_only": (
        "このファイル、このテンプレート、このエンジン設定にだけ有効です。",
        "It is for this file, this template and these engine settings only.",
    ),
}


def promise(certificate: Mapping[str, Any]) -> str:
    """The certified rate in English: how large at most, how surely, and for what.

    Args:
        certificate: a card's section of that name.
    """
    return (
        f"false-allow rate <= {certificate['alpha']:.3g} with confidence "
        f"{1 - certificate['delta']:.3g} ({certificate['guarantee']})"
    )


def in_english(code: str) -> str:
    """A code of a card's `limits` in words; a code of another version stands for itself."""
    if code not in LIMITS:
        return code
    return LIMITS[code][1]
