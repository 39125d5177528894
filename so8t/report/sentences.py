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
            "較正データの危険グループを増やす（証明の代償が小さくなる）、学習を良くする、または "
            "alpha を上げる。"
        ),
        (
            "More unsafe calibration groups (the certificate costs less), better training, or a "
            "larger alpha."
        ),
    ),
    # Beside the certificate, because these rows were not used to make it.
    "far": (
        "実測の誤許可率は上限以下（{split}）",
        "The measured false-allow rate is within the limit ({split})",
    ),
    "far_e": ("{far}、上限 {alpha}", "{far}, limit {alpha}"),
    "far_c": (
        (
            "この分割に似た行を較正データに加えて較正し直す。"
            "証明は較正データと同じ種類の依頼だけに及ぶ。"
        ),
        (
            "Add rows like this split to calibration and calibrate again; the certificate covers "
            "only requests like those."
        ),
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

# What the certificate does not cover, by the codes that the card lists.
CERTIFICATE_LIMITS: Pairs = {
    "exchangeable_inputs_only": (
        "較正グループと同じ種類の依頼にだけ成り立ちます。",
        "It holds only for requests exchangeable with the calibration groups.",
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
        "わざと破ろうとする相手には及びません。",
        "It does not hold against people who try to break it.",
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
