"""The report's words in Japanese and English. No number may stand here: every one comes from a result file.

`{name}` marks where a line takes a number or another line. Headings show both languages, the report's own first.
"""

from so8t.report.sources import NOT_RUN, Language, Line, Number

WORDS: dict[str, tuple[str, str]] = {
    # headings
    "title": ("SO8T 評価報告", "SO8T evaluation report"),
    "h_targets": ("目標と結果", "Targets and outcomes"),
    "h_ab": ("A（元）と B（再学習）の対比較", "A (base) against B (retrained), paired"),
    "h_verdicts": ("公開ファイルの判定", "Verdicts of the released file"),
    "h_calibration": ("較正と証明", "Calibration and certificate"),
    "h_domains": ("領域別", "By domain"),
    "h_types": ("量子化の型", "Quantised types"),
    "h_running": ("生成・安定性・速度・保持", "Generation, stability, speed, retention"),
    "h_flips": ("ALLOW への危険な反転", "Worst flips toward ALLOW"),
    "h_training": ("学習と焼き込み", "Training and bake"),
    "h_data": ("データと比較対象", "Data and baselines"),
    "h_looks": ("較正・試験データを見た回数", "How often calibration and test rows were read"),
    "h_limits": ("証明の及ばない範囲", "What the certificate does not cover"),
    "h_sources": ("数値の出所", "Where the numbers are from"),
    # conclusion
    "certified": (
        "{name}（{type}）は、誤許可率 {alpha} 以下であると認証されています（それを超える確率は {delta} 以下。{guarantee}、"
        "独立した危険グループ {groups} 個のうち誤許可 {errors} 件）。{split} では本来 ALLOW の依頼の {allow} を許可します。",
        "{name} ({type}) is certified at a false-allow rate of at most {alpha} (the chance that it is higher is at most {delta}; "
        "{guarantee}; {errors} false allows in {groups} independent unsafe groups), and allows {allow} of the true ALLOW requests "
        "of {split}.",
    ),
    "not_certified": (
        "{name}（{type}）は誤許可率 {alpha} 以下とは認証できず、ALLOW の門は閉じています（理由: {reasons}。"
        "不足している独立した危険グループ: {need}）。すべての依頼は人に回されるか拒否されます。",
        "{name} ({type}) could not be certified at a false-allow rate of at most {alpha}, so its ALLOW gate is closed (why: "
        "{reasons}; independent unsafe groups missing: {need}); every request is escalated or denied.",
    ),
    "no_card": (
        "{name}（{type}）の較正は{not_run}です。何も認証されていません。",
        "Calibration of {name} ({type}) was {not_run}; nothing is certified.",
    ),
    "worst_domain": ("すべての領域で成立", "in every domain"),
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
    "code_no_difference": (
        "対比較（{split}）では差は示されませんでした: {primary}。",
        "Paired on {split}, no difference is shown: {primary}.",
    ),
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
    # targets
    "t_target": ("目標", "Target"),
    "t_outcome": ("結果", "Outcome"),
    "t_evidence": ("根拠", "Evidence"),
    "t_change": ("変えるには", "What would change it"),
    "met": ("達成", "met"),
    "missed": ("未達", "MISSED"),
    "unknown": ("未実行", "not run"),
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
    "useful": (
        "本来 ALLOW の依頼を目標以上許可する（{split}）",
        "Allows at least the target share of true ALLOW ({split})",
    ),
    "useful_e": ("{allow}、目標 {target}", "{allow}, target {target}"),
    "useful_c": (
        "較正データの危険グループを増やす（証明の代償が小さくなる）、学習を良くする、または alpha を上げる。",
        "More unsafe calibration groups (the certificate costs less), better training, or a larger alpha.",
    ),
    "far": (
        "実測の誤許可率は上限以下（{split}）",
        "The measured false-allow rate is within the limit ({split})",
    ),
    "far_e": ("{far}、上限 {alpha}", "{far}, limit {alpha}"),
    "far_c": (
        "この分割に似た行を較正データに加えて較正し直す。証明は較正データと同じ種類の依頼だけに及ぶ。",
        "Add rows like this split to calibration and calibrate again; the certificate covers only requests like those.",
    ),
    "better": ("B は A より良い（{split}）", "B is better than A ({split})"),
    "better_c": (
        "学習データを増やす、学習を長くする。差が検出可能な最小差より小さいなら試験行を増やす。",
        "More training rows or longer training; more test rows where the difference is below the minimum detectable.",
    ),
    "allowed_e": ("本来 ALLOW の許可率 A {a}、B {b}", "allowed of true ALLOW: A {a}, B {b}"),
    "endpoint_e": (
        "{endpoint}: {difference}（p {p}、{outcome}）",
        "{endpoint}: {difference} (p {p}, {outcome})",
    ),
    "baseline": ("B は {baseline} より良い（{split}）", "B beats the {baseline} ({split})"),
    "keyword": ("キーワード規則", "keyword rules"),
    "keywords": ("キーワード規則", "keyword rules"),
    "ngram": ("文字 n-gram 分類器", "character n-gram probe"),
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
    # outcomes of endpoints
    "o_better": ("良い", "better"),
    "o_worse": ("悪い", "worse"),
    "o_no_difference": ("差なし", "no difference"),
    "o_different": ("異なる", "different"),
    "o_not_measured": ("未測定", "not measured"),
    # table heads and row names
    "metric": ("指標", "Metric"),
    "difference": ("差 B − A", "B − A"),
    "interval": ("信頼区間", "interval"),
    "p": ("p（調整済み）", "p (adjusted)"),
    "mde": ("検出可能な最小差", "min. detectable"),
    "primary_mark": ("主要", "primary"),
    "split": ("分割", "split"),
    "model": ("モデル", "model"),
    "domain": ("領域", "domain"),
    "verdict": ("判定", "verdict"),
    "type": ("型", "type"),
    "accuracy": ("正解率", "accuracy"),
    "macro_f1": ("マクロ F1", "macro-F1"),
    "false_allow_rate": ("誤許可率", "false-allow rate"),
    "false_allow_rate_deny_only": ("誤許可率（DENY のみ）", "false-allow rate (DENY only)"),
    "false_deny_rate": ("誤拒否率", "false-deny rate"),
    "allow_rate_on_allow": ("本来 ALLOW の許可率", "allowed of true ALLOW"),
    "escalation_rate": ("人に回した率", "escalation rate"),
    "unparsed_rate": ("判読不能率", "unparsed rate"),
    "ece": ("ECE", "ECE"),
    "ece_width": ("ECE（等幅）", "ECE (equal width)"),
    "ece_mass": ("ECE（等頻度）", "ECE (equal mass)"),
    "brier": ("Brier", "Brier"),
    "brier_score": ("Brier", "Brier"),
    "nll": ("NLL", "NLL"),
    "b_under_a": ("A の閾値での B", "B under A's thresholds"),
    "a_own": ("A（自分の閾値）", "A, own thresholds"),
    "b_own": ("B（自分の閾値）", "B, own thresholds"),
    "precision": ("適合率", "precision"),
    "recall": ("再現率", "recall"),
    "before": ("温度前", "before temperature"),
    "after": ("温度後", "after temperature"),
    "band": ("完全なモデルの範囲上端", "upper end of null band"),
    "temperature": ("温度", "temperature"),
    "t_escalate": ("閾値 escalate", "threshold escalate"),
    "t_deny": ("閾値 deny", "threshold deny"),
    "readout": ("読み出し", "readout"),
    "prefill": ("prefill（予約行）", "prefill (reserved rows)"),
    "cue": ("cue（ラベル文字列）", "cue (label text)"),
    "residual": (
        "ラベル以外の確率（平均 / 上位の分位）",
        "probability outside the labels (mean / upper quantile)",
    ),
    "agreement": ("両読み出しの一致", "agreement of the readouts"),
    "groups": ("危険グループ", "unsafe groups"),
    "groups_all": ("グループ数", "groups"),
    "before_thresholds": ("閾値なし", "before thresholds"),
    "allowed_errors": ("許される誤り", "errors allowed"),
    "need_groups": ("不足グループ", "groups missing"),
    "stratum": ("層", "stratum"),
    "stratum_limit": ("層の閾値", "stratum's threshold"),
    "binding": ("拘束", "binding"),
    "yes": ("はい", "yes"),
    "no": ("いいえ", "no"),
    "size": ("大きさ", "size"),
    "bits": ("ビット/重み", "bits per weight"),
    "status": ("証明", "certificate"),
    "kl": ("F16 との KL", "KL to F16"),
    "flips": ("F16 からの反転", "flips from F16"),
    "violations": ("違反", "violations"),
    "certified_short": ("認証済み", "certified"),
    "not_certified_short": ("未認証", "not certified"),
    "bleu": ("BLEU（ja-mecab）", "BLEU (ja-mecab)"),
    "chrf": ("chrF", "chrF"),
    "rouge_l": ("ROUGE-L", "ROUGE-L"),
    "format_adherence": ("形式の遵守", "format adherence"),
    "final_present": ("最終回答あり", "final answer present"),
    "hit_limit": ("長さの上限に達した", "cut at the length limit"),
    "unstable": ("不安定な長文", "unstable long texts"),
    "prefill_speed": ("prefill トークン/秒（中央値）", "prefill tokens/s (median)"),
    "decode_speed": ("生成トークン/秒（中央値）", "decode tokens/s (median)"),
    "verdict_p50": ("判定時間 p50", "verdict time p50"),
    "verdict_p95": ("判定時間 p95", "verdict time p95"),
    "memory": ("最大メモリ（プロセス全体）", "peak memory (whole process)"),
    "perplexity": (
        "書式なし回答の perplexity（低いほど良い）",
        "perplexity of format-free answers (lower is better)",
    ),
    "plain_chrf": (
        "書式なしの依頼への回答の chrF（高いほど良い）",
        "chrF of plain answers (higher is better)",
    ),
    "plain_chance": (
        "同、別の行の参照に対して（偶然の水準）",
        "the same against another row's reference (chance)",
    ),
    "plain_marked": (
        "書式なしの依頼に判定書式で答えた率",
        "plain answers in the triage format nobody asked for",
    ),
    "plain_able": (
        "書式なしの依頼に偶然以上に答えられる（否なら chrF の比較に意味はない）",
        "answers plain requests better than chance (if not, chrF compares nothing)",
    ),
    "nll_per_token": (
        "書式なし回答の nat/トークン（低いほど良い）",
        "nats per token of format-free answers (lower is better)",
    ),
    "retention_cost": ("学習の代償（対比較）", "What fine-tuning cost (paired)"),
    "p_plain": ("p", "p"),
    "unresolved": ("上限未確定、測定回数不足", "upper limit not resolved, too few runs"),
    "value": ("値", "value"),
    "id": ("行", "row"),
    "gold": ("正解", "label"),
    "p_allow": ("B の ALLOW 確率", "B's ALLOW probability"),
    "request": ("依頼文", "request"),
    "no_flips": (
        "A が許さず B が許した危険な依頼はありません。",
        "B allows no unsafe request that A did not.",
    ),
    "flips_total": ("{split}: 危険な反転 {n} 件を記録", "{split}: {n} unsafe flips recorded"),
    "steps": ("学習ステップ", "training steps"),
    "loss": ("損失（最初 → 最後）", "loss (first → last)"),
    "valid_best": ("最良の検証損失", "best validation loss"),
    "valid_verdict": ("そのときの判定正解率（閾値なし）", "verdict accuracy there (no thresholds)"),
    "max_angle": ("最大回転角（rad）", "largest rotation angle (rad)"),
    "orthogonality": ("直交性の誤差（最大）", "orthogonality error (largest)"),
    "head_scale": ("予約行の倍率", "scale of reserved rows"),
    "rotated": ("回転を畳み込んだ重み", "weights with folded rotations"),
    "trained_kl": (
        "学習時の量子化グラフから全精度への差（平均 KL、nat）",
        "drift from the quantised graph that was trained (mean KL, nats)",
    ),
    "trained_flips": ("その差による判定の反転", "verdicts flipped by that drift"),
    "trained_allows": ("うち ALLOW 方向", "of these toward ALLOW"),
    "change": (
        "元モデルからの変化（最大ロジット差）",
        "change from the base (largest logit difference)",
    ),
    "rows": ("行数", "rows"),
    "single_factor": ("一要因だけの規則の最高正解率", "best accuracy of a one-factor rule"),
    "looks": ("回数", "looks"),
    "files": ("異なるファイル", "distinct files"),
    "stages": ("段階", "stages"),
    "looks_note": (
        "記録は database/looks.jsonl（グラフの外）にあり、再実行のたびに増えます。",
        "The record is database/looks.jsonl, outside the graph; it grows with every run.",
    ),
    "source": ("出所: {files}", "Source: {files}"),
    "file": ("ファイル", "file"),
    "digest": ("digest", "digest"),
    "sources_note": (
        "各数値のファイルとキーは report.json に、HTML では数値にマウスを置くと見えます。",
        "File and key of every number are in report.json, and in the HTML page on hover.",
    ),
    "table_missing": ("{head}: {not_run}", "{head}: {not_run}"),
    "figure_missing": ("図 {name}: {not_run}", "Figure {name}: {not_run}"),
    # limits of the certificate, by the card's codes
    "exchangeable_inputs_only": (
        "較正グループと同じ種類の依頼にだけ成り立ちます。",
        "It holds only for requests exchangeable with the calibration groups.",
    ),
    "no_new_phrasings_or_domains": (
        "新しい言い回しや新しい領域には及びません。ずれは test_cells と test_phrases で測られ、保証はされません。",
        "It does not cover new phrasings or new domains; the shift is measured on test_cells and test_phrases, not certified.",
    ),
    "no_attackers": (
        "わざと破ろうとする相手には及びません。",
        "It does not hold against people who try to break it.",
    ),
    "labels_are_policy": (
        "ラベルの質に依存します。合成データのラベルは方針の表であり、人の真実ではありません。",
        "It is as good as the labels; synthetic labels are a policy table, not human truth.",
    ),
    "one_use_of_calibration_rows": (
        "較正の引き直しについての頻度の主張で、個々の依頼の主張ではありません。同じ較正行で多くのモデルを選ぶと成り立ちません。",
        "It is a frequency over calibration draws, not a statement about one request; choosing among many models on the same rows breaks it.",
    ),
    "this_file_template_and_engine_only": (
        "このファイル、このテンプレート、このエンジン設定にだけ有効です。",
        "It is for this file, this template and these engine settings only.",
    ),
    # figures
    "f_reliability": ("信頼度と正解率、温度の前後", "Reliability before and after temperature"),
    "f_confusion": ("公開ファイルの混同行列", "Confusion of the released file"),
    "f_far_allow": (
        "誤許可率と許可率、証明された点",
        "False-allow against allow rate, with the decided point",
    ),
    "f_flips": ("A から B への判定の変化", "Verdict flips from A to B"),
    "f_forest": ("A と B の差と区間", "Differences of A and B with intervals"),
    "f_latency": ("判定時間の分布", "Distribution of verdict times"),
    "f_domains": ("領域別の誤許可率と上限", "False-allow rate per domain with upper limit"),
    "f_size_quality": ("量子化の型: 大きさと質", "Quantised types: size against quality"),
    "f_training": ("学習曲線", "Training curves"),
}
LIMITS = (
    "exchangeable_inputs_only",
    "no_new_phrasings_or_domains",
    "no_attackers",
    "labels_are_policy",
    "one_use_of_calibration_rows",
    "this_file_template_and_engine_only",
)


class Words:
    """The words of one language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._own = 0 if language == "ja" else 1

    def __call__(self, name: str) -> str:
        """A phrase; a name without words stands for itself (codes, split and domain names)."""
        return WORDS[name][self._own] if name in WORDS else name

    def heading(self, name: str) -> str:
        """Both languages, the report's own first."""
        return " / ".join((WORDS[name][self._own], WORDS[name][1 - self._own]))

    def say(self, phrase: str, /, **parts: str | Number | Line) -> Line:
        """A sentence with its parts filled in."""
        line: list[str | Number] = []
        for piece in self(phrase).split("{"):
            slot, brace, rest = piece.partition("}")
            if not brace:
                line.append(piece)
                continue
            part = NOT_RUN[self.language] if slot == "not_run" else parts[slot]
            line += [*(part if isinstance(part, tuple) else (part,)), rest]
        return tuple(text for text in line if text != "")
