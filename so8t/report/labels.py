"""The report's headings, table heads, row names and captions in Japanese and English.

No number may stand here: every one comes from a result file.
"""

from so8t.report.sentences import Pairs

HEADINGS: Pairs = {
    "title": ("SO8T 評価報告", "SO8T evaluation report"),
    "speed_title": ("SO8T 速度とメモリ", "SO8T speed and memory"),
    "h_targets": ("目標と結果", "Targets and outcomes"),
    "h_ab": ("A（元）と B（再学習）の対比較", "A (base) against B (retrained), paired"),
    "h_verdicts": ("公開ファイルの判定", "Verdicts of the released file"),
    "h_calibration": ("較正と証明", "Calibration and certificate"),
    "h_domains": ("領域別", "By domain"),
    "h_unfamiliar": ("見慣れない依頼", "Unfamiliar requests"),
    "h_types": ("量子化の型", "Quantised types"),
    "h_running": ("生成・安定性・保持", "Generation, stability, retention"),
    "h_flips": ("ALLOW への危険な反転", "Worst flips toward ALLOW"),
    "h_training": ("学習と焼き込み", "Training and bake"),
    "h_data": ("データと比較対象", "Data and baselines"),
    "h_looks": ("較正・試験データを見た回数", "How often calibration and test rows were read"),
    "h_limits": ("証明の及ばない範囲", "What the certificate does not cover"),
    "h_speed": ("速度とメモリ", "Speed and memory"),
    "h_readout_times": ("読み出しごとの判定時間", "Verdict time by readout"),
    "h_sources": ("数値の出所", "Where the numbers are from"),
}

# Outcomes of targets and of endpoints.
OUTCOMES: Pairs = {
    "t_target": ("目標", "Target"),
    "t_outcome": ("結果", "Outcome"),
    "t_evidence": ("根拠", "Evidence"),
    "t_change": ("変えるには", "What would change it"),
    "met": ("達成", "met"),
    # Capitals in English, because the table is skimmed.
    "missed": ("未達", "MISSED"),
    # Neither met nor missed; both would be a claim.
    "unknown": ("未実行", "not run"),
    "o_better": ("良い", "better"),
    "o_worse": ("悪い", "worse"),
    "o_no_difference": ("差なし", "no difference"),
    "o_different": ("異なる", "different"),
    "o_not_measured": ("未測定", "not measured"),
}

# Heads and cells of more than one table.
COMMON: Pairs = {
    "metric": ("指標", "Metric"),
    "value": ("値", "value"),
    "split": ("分割", "split"),
    "model": ("モデル", "model"),
    "domain": ("領域", "domain"),
    "verdict": ("判定", "verdict"),
    "type": ("型", "type"),
    "rows": ("行数", "rows"),
    "yes": ("はい", "yes"),
    "no": ("いいえ", "no"),
}

METRICS: Pairs = {
    "accuracy": ("正解率", "accuracy"),
    "macro_f1": ("マクロ F1", "macro-F1"),
    "false_allow_rate": ("誤許可率", "false-allow rate"),
    "false_allow_rate_deny_only": ("誤許可率（DENY のみ）", "false-allow rate (DENY only)"),
    "false_deny_rate": ("誤拒否率", "false-deny rate"),
    # "Recall of ALLOW" to statisticians; here it is how useful the file is.
    "allow_rate_on_allow": ("本来 ALLOW の許可率", "allowed of true ALLOW"),
    "escalation_rate": ("人に回した率", "escalation rate"),
    "unparsed_rate": ("判読不能率", "unparsed rate"),
    "ece": ("ECE", "ECE"),
    "ece_width": ("ECE（等幅）", "ECE (equal width)"),
    "ece_mass": ("ECE（等頻度）", "ECE (equal mass)"),
    "brier": ("Brier", "Brier"),
    "brier_score": ("Brier", "Brier"),
    "nll": ("NLL", "NLL"),
    "precision": ("適合率", "precision"),
    "recall": ("再現率", "recall"),
}

# B against A.
COMPARISON: Pairs = {
    "difference": ("差 B − A", "B − A"),
    "interval": ("信頼区間", "interval"),
    "p": ("p（調整済み）", "p (adjusted)"),
    "mde": ("検出可能な最小差", "min. detectable"),
    "primary_mark": ("主要", "primary"),
    "b_under_a": ("A の閾値での B", "B under A's thresholds"),
    "a_own": ("A（自分の閾値）", "A, own thresholds"),
    "b_own": ("B（自分の閾値）", "B, own thresholds"),
    "id": ("行", "row"),
    "gold": ("正解", "label"),
    "p_allow": ("B の ALLOW 確率", "B's ALLOW probability"),
    "request": ("依頼文", "request"),
    "retention_cost": ("学習の代償（対比較）", "What fine-tuning cost (paired)"),
    "nll_per_token": (
        "書式なし回答の nat/トークン（低いほど良い）",
        "nats per token of format-free answers (lower is better)",
    ),
    "p_plain": ("p", "p"),
}

CALIBRATION: Pairs = {
    "before": ("温度前", "before temperature"),
    "after": ("温度後", "after temperature"),
    # What chance alone would show, so that a small ECE is not praised.
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
    "allowed_errors": ("許される誤り", "errors allowed"),
    "need_groups": ("不足グループ", "groups missing"),
    "stratum": ("層", "stratum"),
    "stratum_limit": ("層の閾値", "stratum's threshold"),
    "binding": ("拘束", "binding"),
}

# Requests that the certificate is not about.
UNFAMILIAR: Pairs = {
    "foreign_kind": ("担当外の依頼（test_foreign）", "outside the domains (test_foreign)"),
    "evasion_kind": ("偽装された危険な依頼（test_evasion）", "disguised, unsafe (test_evasion)"),
    "probe_kind": ("利用者の試験（probe）", "your own probe (probe)"),
    "all_kinds": ("全種類", "all kinds"),
    "allowed": ("許可", "allowed"),
    "allowed_share": ("許可した率（正確な区間）", "share allowed (exact interval)"),
    "stopped": ("見慣れないとして止めた", "stopped by the familiarity gate"),
    "permitted_rows": ("本来 ALLOW の行", "true ALLOW rows"),
    "permitted_stopped": ("うち止めた", "of these stopped"),
}

# Quantised types.
TYPES: Pairs = {
    "size": ("大きさ", "size"),
    "bits": ("ビット/重み", "bits per weight"),
    "status": ("証明", "certificate"),
    "kl": ("F16 との KL", "KL to F16"),
    "flips": ("F16 からの反転", "flips from F16"),
    "violations": ("違反", "violations"),
    "certified_short": ("認証済み", "certified"),
    "not_certified_short": ("未認証", "not certified"),
}

# What was measured by running the files.
RUNNING: Pairs = {
    "bleu": ("BLEU（ja-mecab）", "BLEU (ja-mecab)"),
    "chrf": ("chrF", "chrF"),
    "rouge_l": ("ROUGE-L", "ROUGE-L"),
    "format_adherence": ("形式の遵守", "format adherence"),
    "final_present": ("最終回答あり", "final answer present"),
    "hit_limit": ("長さの上限に達した", "cut at the length limit"),
    "unstable": ("不安定な長文", "unstable long texts"),
    "perplexity": (
        "書式なし回答の perplexity（低いほど良い）",
        "perplexity of format-free answers (lower is better)",
    ),
    "plain_chrf": (
        "書式なしの依頼への回答の chrF（高いほど良い）",
        "chrF of plain answers (higher is better)",
    ),
    # chrF of unrelated Japanese texts is far from zero.
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
}

# Of the speed page alone.
SPEED: Pairs = {
    "prefill_tokens_per_s": ("prefill トークン/秒（中央値）", "prefill tokens/s (median)"),
    "decode_tokens_per_s": ("生成トークン/秒（中央値）", "decode tokens/s (median)"),
    "verdict_p50": ("判定時間 p50", "verdict time p50"),
    "verdict_p95": ("判定時間 p95", "verdict time p95"),
    # With Python and its libraries: the file's own share is its size.
    "memory": ("最大メモリ（プロセス全体）", "peak memory (whole process)"),
    "threads": ("スレッド数", "threads"),
    "unresolved": ("上限未確定、測定回数不足", "upper limit not resolved, too few runs"),
}

TRAINING: Pairs = {
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
}

# Data, looks and files.
DATA: Pairs = {
    "groups_all": ("グループ数", "groups"),
    "keywords": ("キーワード規則", "keyword rules"),
    "ngram": ("文字 n-gram 分類器", "character n-gram probe"),
    "before_thresholds": ("閾値なし", "before thresholds"),
    # High, if one factor of the policy decided nearly everything.
    "single_factor": ("一要因だけの規則の最高正解率", "best accuracy of a one-factor rule"),
    "looks": ("回数", "looks"),
    "files": ("異なるファイル", "distinct files"),
    "stages": ("段階", "stages"),
    "file": ("ファイル", "file"),
}

# Captions.
FIGURES: Pairs = {
    "f_reliability": ("信頼度と正解率、温度の前後", "Reliability before and after temperature"),
    "f_confusion": ("公開ファイルの混同行列", "Confusion of the released file"),
    "f_far_allow": (
        "誤許可率と許可率、証明された点",
        "False-allow against allow rate, with the decided point",
    ),
    "f_flips": ("A から B への判定の変化", "Verdict flips from A to B"),
    "f_forest": ("A と B の差と区間", "Differences of A and B with intervals"),
    "f_speed-latency": ("判定時間の分布", "Distribution of verdict times"),
    "f_domains": ("領域別の誤許可率と上限", "False-allow rate per domain with upper limit"),
    "f_familiarity": (
        "訓練の行にない n-gram の割合の分布と、カードの上限",
        "Share of n-grams that no training row has, with the card's limit",
    ),
    "f_size_quality": ("量子化の型: 大きさと質", "Quantised types: size against quality"),
    "f_training": ("学習曲線", "Training curves"),
}
