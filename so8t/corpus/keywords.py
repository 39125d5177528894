"""The founding documents' keyword agent: the baseline that a model must beat by a wide margin.

Words and order are as described in SPEC 3.22. It is here to be compared with, never to decide.
"""

from so8t.verdict import Verdict

DENY_WORDS = ("機密", "秘密", "未公開", "内部", "機密情報", "秘密情報", "パスワード", "認証情報",
              "API キー", "APIキー", "トークン", "秘密鍵", "プライベートキー")
ESCALATE_WORDS = ("詳細な仕様", "具体的な運用", "専門的な判断", "内部構造", "設計", "実装", "運用方法", "技術仕様", "詳細仕様", "性能データ")


def verdict(text: str) -> Verdict:
    """The first list with a word in the text decides; otherwise ALLOW."""
    if any(word in text for word in DENY_WORDS):
        return Verdict.DENY
    return Verdict.ESCALATE if any(word in text for word in ESCALATE_WORDS) else Verdict.ALLOW
