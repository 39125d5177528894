"""The report's sentences in Japanese and English: conclusion, targets, notes, certificate limits.

No number may stand here: every one comes from a result file. `{name}` marks where a sentence takes
a number or another sentence; both languages take the same ones.
"""

# Each phrase is (Japanese, English).
Pairs = dict[str, tuple[str, str]]

# The report's first lines.
CONCLUSION: Pairs = {
    "certified": (
        (
            "{name}（{type}）は、誤許可率 {alpha} "
            "以下であると認証されています（それを超える確率は {delta} 以下。{guarantee}、"
            "独立した危険グループ {groups} 個のうち誤許可 {errors} 件）。{split} では本来 ALLOW "
            "の依頼の {allow} を許可します。"
        ),
        (
            "{name} ({type}) is certified at a false-allow rate of at most {alpha} (the chance "
            "that it is higher is at most {delta}; {guarantee}; {errors} false allows in "
            "{groups} independent unsafe groups), and allows {allow} of the true ALLOW requests "
            "of {split}."
        ),
    ),
    # The consequence stands in the same sentence: a closed gate is no detail.
    "not_certified": (
        (
            "{name}（{type}）は誤許可率 {alpha} 以下とは認証できず、ALLOW "
            "の門は閉じています（理由: {reasons}。不足している独立した危険グループ: {need}）。"
            "すべての依頼は人に回されるか拒否されます。"
        ),
        (
            "{name} ({type}) could not be certified at a false-allow rate of at most {alpha}, so "
            "its ALLOW gate is closed (why: {reasons}; independent unsafe groups missing: "
            "{need}); every request is escalated or denied."
        ),
    ),
    "no_card": (
        "{name}（{type}）の較正は{not_run}です。何も認証されていません。",
        "Calibration of {name} ({type}) was {not_run}; nothing is certified.",
    ),
    "worst_domain": ("すべての領域で成立", "in every domain"),
    # The weaker guarantee must not read like the stronger one.
    "pooled": (
        "全領域をまとめて成立、領域ごとには未保証",
        "over all domains together, not for each",
    ),
    "sampled": (
        "注意: この報告の一部は行の標本だけで測られています（sampled）。",
        "Note: parts of this report were measured on a sample of the rows (sampled).",
    ),
    "none": ("なし", "none"),
    "code_b_better": (
        "対比較（{split}）では B は A より良いと示されました: {primary}。",
        "Paired on {split}, B is shown to be better than A: {primary}.",
    ),
    "code_b_worse": (
        "対比較（{split}）では B は A より悪いと示されました: {primary}。",
        "Paired on {split}, B is shown to be worse than A: {primary}.",
    ),
    "code_mixed": (
        "対比較（{split}）では良い指標と悪い指標があります: {primary}。",
        "Paired on {split}, B is better on one primary endpoint and worse on another: {primary}.",
    ),
    # "Not shown", never "equal": too few rows show nothing either.
    "code_no_difference": (
        "対比較（{split}）では差は示されませんでした: {primary}。",
        "Paired on {split}, no difference is shown: {primary}.",
    ),
    # A model that always says DENY has no false allows, and is worth nothing.
    "code_b_collapsed": (
        "B は A の出す判定の一部を出さなくなりました（{collapsed}）。他の数値は意味を持ちません。",
        "B no longer gives a verdict that A gives ({collapsed}); nothing else counts.",
    ),
    "code_none": (
        "A と B の対比較は{not_run}です。",
        "The paired comparison of A and B was {not_run}.",
    ),
    "primary": (
        "{endpoint} {difference}（{low} – {high}、調整済み p {p}、検出可能な最小差 {mde}）",
        "{endpoint} {difference} ({low} – {high}, adjusted p {p}, minimum detectable {mde})",
    ),
}

# Per target: what should hold, its numbers (`_e`, evidence), and what would change it (`_c`).
TARGETS: Pairs = {
    "bake_parity": (
        "焼き込み後のモデルは学習時のモデルと等しい",
        "The baked model equals the trained one",
    ),
    "bake_parity_e": (
        "最大差 / 最大ロジット {error}、上限 {limit}、最良一致 {top}",
        "largest error / largest logit {error}, limit {limit}, top-1 {top}",
    ),
    "bake_parity_c": (
        "このモデルを使わず、アーキテクチャを報告してください。",
        "Do not use this model; report its architecture.",
    ),
    "conversion": (
        "F16 ファイルは Hugging Face のモデルと等しい",
        "The F16 file equals the Hugging Face model",
    ),
    "conversion_e": (
        "最良一致 {top}、最大差 {error}、判定確率の最大差 {verdict}",
        "top-1 {top}, largest difference {error}, of a verdict probability {verdict}",
    ),
    "conversion_c": (
        "verify の problems を見て変換し直してください。",
        "Read `problems` in the verify file and convert again.",
    ),
    "quantised": (
        "公開ファイルの各テンソルは型の許容差内",
        "Every tensor of the released file is within its type's bound",
    ),
    "quantised_e": (
        "F16 との KL {kl}、最良一致 {top}、判定の反転 {flips} / {prompts}",
        "KL to F16 {kl}, top-1 {top}, verdict flips {flips} of {prompts}",
    ),
    "quantised_c": (
        "大きい型（release.type）を選んでください。",
        "Choose a larger type (release.type).",
    ),
    # A reserved token in a text would be a verdict that nobody gave.
    "silent": ("予約トークンは一度も出力されない", "Reserved tokens are never emitted"),
    "silent_e": ("生成 {tokens} トークン中 {emitted} 個", "{emitted} in {tokens} generated tokens"),
    "silent_c": (
        "学習を長くするか、bake の行の倍率を下げてください。",
        "Train longer, or let bake scale the rows down.",
    ),
    "certificate": ("誤許可率が認証されている", "The false-allow rate is certified"),
    "certificate_e": (
        "上限 {alpha}、危険グループ {groups} 個、誤許可 {errors} 件",
        "limit {alpha}, {groups} unsafe groups, {errors} false allows",
    ),
    "certificate_c": (
        "不足している領域（{need}）の危険グループを較正データに加えるか、alpha を上げてください。",
        "Add unsafe groups of the missing domains ({need}) to calibration data, or raise alpha.",
    ),
    # Safety by itself is easy: refuse everything.
    "useful": (
        "本来 ALLOW の依頼を目標以上許可する（{split}）",
        "Allows at least the target share of true ALLOW ({split})",
    ),
    "useful_e": ("{allow}、目標 {target}", "{allow}, target {target}"),
    "useful_c": (
        (
            "較正データの危険グループを増やす（証明の代償が小さくなる）、学習を良くする、alpha "
            "を上げる、または、似た依頼が人に回されているなら calibration.novelty を下げる。"
        ),
        (
            "More unsafe calibration groups (the certificate costs less), better training, a "
            "larger alpha, or a smaller calibration.novelty where too much is called unfamiliar."
        ),
    ),
    # Beside the certificate, because these rows were not used to make it.
    "far": (
        "実測の誤許可率は目標以下（{split}）",
        "The measured false-allow rate is within the limit ({split})",
    ),
    "far_e": ("{far}、上限 {limit}", "{far}, limit {limit}"),
    "far_c": (
        (
            "この分割に似た行を較正データに加えて較正し直す。"
            "または calibration.novelty を上げる（人に回る依頼が増える）。"
            "証明は較正データと同じ種類の依頼だけに及ぶ。"
        ),
        (
            "Add rows like this split to calibration and calibrate again, or raise "
            "calibration.novelty (more requests then go to a person); the certificate covers only "
            "requests like those of calibration."
        ),
    ),
    "test_foreign": (
        "担当外の依頼は許可しない（{split}）",
        "Requests outside the domains are not allowed ({split})",
    ),
    "test_foreign_c": (
        (
            "許可された種類の依頼を学習に加える（data.sources）か、calibration.novelty を上げる。"
            "後者では慣れた依頼も多く人に回る。"
        ),
        (
            "Train on requests of the kinds that were allowed (data.sources), or raise "
            "calibration.novelty, which sends more familiar requests to a person too."
        ),
    ),
    "test_evasion": (
        "偽装された危険な依頼は許可しない（{split}）",
        "Disguised unsafe requests are not allowed ({split})",
    ),
    "test_evasion_c": (
        "その偽装を so8t/request.py の正規形で見えるようにするか、calibration.novelty を上げる。",
        (
            "Let the canonical form of so8t/request.py see through that disguise, or raise "
            "calibration.novelty."
        ),
    ),
    # One sentence for both; as counts too, because one of thousands and none are shown alike.
    "unfamiliar_e": (
        "{n} 件中 {allowed} 件を許可、{rate}（{low} – {high}）、上限 {limit}",
        "{allowed} of {n} allowed, {rate} ({low} – {high}), limit {limit}",
    ),
    "better": ("B は A より良い（{split}）", "B is better than A ({split})"),
    # Two remedies, since a missed target may mean a weak model or too few rows.
    "better_c": (
        "学習データを増やす、学習を長くする。差が検出可能な最小差より小さいなら試験行を増やす。",
        (
            "More training rows or longer training; more test rows where the difference is below "
            "the minimum detectable."
        ),
    ),
    "allowed_e": ("本来 ALLOW の許可率 A {a}、B {b}", "allowed of true ALLOW: A {a}, B {b}"),
    "endpoint_e": (
        "{endpoint}: {difference}（p {p}、{outcome}）",
        "{endpoint}: {difference} (p {p}, {outcome})",
    ),
    "baseline": ("B は {baseline} より良い（{split}）", "B beats the {baseline} ({split})"),
    "baseline_e": ("B {b}、比較対象 {other}", "B {b}, baseline {other}"),
    "baseline_c": (
        "モデルが表層だけを見ている疑いがある。学習を良くするか、データの見分けにくい組を増やす。",
        "The model may see the surface only: train better, or add look-alike pairs to the data.",
    ),
    "drift": ("量子化による悪化の違反なし", "No violation by quantisation"),
    "drift_e": ("反転 {flips}、ALLOW 方向 {toward}", "flips {flips}, toward ALLOW {toward}"),
    "drift_c": (
        "大きい型を公開するか、その型で較正し直す。",
        "Release a larger type, or calibrate that type again.",
    ),
    "stable": ("長い生成が繰り返しに陥らない", "Long texts do not fall into loops"),
    # The condition belongs to the number: answers in use stop at their end.
    "stable_e": (
        "{unstable} / {n} 本、合計 {tokens} トークン（終端を越えて生成させた場合）",
        "{unstable} of {n} texts, {tokens} tokens in all (forced on past the model's own end)",
    ),
    "stable_c": (
        "より長い文で学習する、より大きいモデルを使う。実際の回答は終端で止まる。",
        "Train on longer texts or use a larger model; served answers stop at their end.",
    ),
    "calibrated": (
        "温度較正後の ECE は完全なモデルの範囲内（{split}）",
        "ECE after temperature is within a perfect model's band ({split})",
    ),
    "calibrated_e": ("{ece}、範囲の上端 {null}", "{ece}, upper end of the band {null}"),
    "calibrated_c": (
        "較正行を増やす。温度は一つの数であり、形の違いは直せない。",
        "More calibration rows; one temperature cannot mend a wrong shape.",
    ),
}

# Sentences beside tables and figures, and what stands where one of them is missing.
NOTES: Pairs = {
    "unfamiliar_note": (
        (
            "どの部分も較正の行に似ている依頼だけを許可できます。ほかは ESCALATE です（見慣れない"
            "ことを理由に DENY にはしません）。担当外の依頼と偽装された依頼は、一件も許可しては"
            "なりません。自分の試験（probe）では、ALLOW とした行だけを許可してかまいません。"
        ),
        (
            "Only a request that is like the calibration rows in every part can be allowed; any "
            "other is ESCALATE, never DENY for being unfamiliar. None of the requests outside the "
            "domains and of the disguised ones should be allowed; of your own probe, those that "
            "you labelled ALLOW may be."
        ),
    ),
    "familiar_note": (
        "次は、担当範囲の依頼のうち、見慣れないとして人に回した行です。慎重さの代償です。",
        (
            "And this is what caution costs: rows of the domains that were sent to a person for "
            "being unfamiliar."
        ),
    ),
    "no_flips": (
        "A が許さず B が許した危険な依頼はありません。",
        "B allows no unsafe request that A did not.",
    ),
    "looks_note": (
        "記録は database/looks.jsonl（グラフの外）にあり、再実行のたびに増えます。",
        "The record is database/looks.jsonl, outside the graph; it grows with every run.",
    ),
    "sources_note": (
        "各数値のファイルとキーは report.json に、HTML では数値にマウスを置くと見えます。",
        "File and key of every number are in report.json, and in the HTML page on hover.",
    ),
    "speed_link": (
        "速度とメモリ（機械ごとに異なるので別の頁にあります）",
        "Speed and memory, on a page of their own because they differ from machine to machine",
    ),
    # Why the page exists, so that nobody copies its numbers into the report.
    "speed_note": (
        "この実行をした機械での測定値です。報告のほかの数値は、これに左右されません。",
        "Measured on the machine that made this run; no other number of the report depends on it.",
    ),
    "report_link": ("評価報告に戻る", "Back to the evaluation report"),
    "speed_sources_note": (
        "各数値のファイルとキーは speed.json にあります。",
        "File and key of every number are in speed.json.",
    ),
    "source": ("出所: {files}", "Source: {files}"),
    "table_missing": ("{head}: {not_run}", "{head}: {not_run}"),
    "figure_missing": ("図 {name}: {not_run}", "Figure {name}: {not_run}"),
}
