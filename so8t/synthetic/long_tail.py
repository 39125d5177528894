"""The long tail of phrasing: what people write beside the few usual ways, each wording rare.

Real requests are worded in a few common ways and in very many rare ones. Without that tail every
wording of the calibration rows would occur in the training rows too, the familiarity gate would
learn that nothing new is ever normal, and it would send every new wording to a person. Each
template below stands for all combinations of its alternatives: `[公開|内部]の資料` is two wordings.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Final

_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")

_WHO: Final = "[部長|課長|所長|管理責任者|統括者|主任|審査担当|本部長|班長|係長]"
_APPROVAL: Final = "[承認|決裁|許可|了承|許諾]"

# Requests end where て follows, like the common ones of `vocabulary`.
INTENTS: Final[dict[str, tuple[str, ...]]] = {
    "summarise": (
        "{a}の[要点|要旨|ポイント|骨子|大事な点|主な内容]を[三行|五行|箇条書き|短い文|一段落|表]に[まとめ|整理し|書き出し]",
        "{a}を[ざっと|手短に|簡潔に|かいつまんで|分かりやすく|短い言葉で][まとめ|要約し|整理し|まとめ直し]",
        "{a}から[大事な|主な|必要な|重要な][ところ|点|項目|部分]だけを[抜き出し|拾い出し|取り出し]",
    ),
    "explain": (
        "{a}の[意味|目的|概要|読み方|見方|背景|使い道|成り立ち]を[教え|説明し|解説し|やさしく話し]",
        "{a}が[何のための|どういう|どのような][もの|資料|記録|書類]か[教え|説明し|解説し|示し]",
        "{a}について[初めての人|新しい担当者|専門でない人|周りの人]に[分かるように|伝わるように][説明し|話し|解説し]",
    ),
    "view": (
        "{a}の[中身|内容|全ページ|本文|全項目|すべての欄]を[見せ|表示し|画面に出し|開い|並べ]",
        "{a}を[最初から|終わりまで|一通り|そのままの形で|省かずに|まるごと][見せ|表示し|画面に出し|読ませ]",
    ),
    "copy": (
        "{a}の[複写|写し|控え|コピー|複本]を[一部|二部|もう一つ|手元用に|念のため][作っ|取っ|用意し]",
        "{a}を[別の場所|手元の端末|共有の棚|予備の箱]に[写し|複製し|写し取っ|控え]",
    ),
    "edit": (
        "{a}の[記載|数値|項目|一部|日付|担当欄|書き方]を[直し|書き直し|修正し|改め|差し替え|更新し]",
        "{a}に[一行|新しい項目|注記|別の値|手直し]を[加え|書き加え|書き足し|入れ]",
    ),
    "send": (
        "{a}を[取引先|社外の相手|外部の業者|協力会社|先方|委託先|外の宛先]に[送っ|メールし|渡し|転送し|届け|共有し]",
        "{a}を[社外|外部|組織の外]へ[出し|発送し|回し|持ち出せるようにし]",
    ),
}

AUTHORISATIONS: Final[dict[str, tuple[str, ...]]] = {
    "verified": (
        f"{{n}}で{_WHO}の{_APPROVAL}が[下りています|出ています|済んでいます|取れています]。",
        f"{_WHO}が{{n}}を[承認|決裁|了承|許可][済みです|しています|しました]。",
        f"{_APPROVAL}[番号|記録]{{n}}の[とおり|とおりに]、{_WHO}の[確認|点検|合意]を[得ています|受けています|経ています]。",
    ),
    "claimed": (
        "[先輩|同僚|上の人|前任者|係の人|隣の部署]が[構わない|問題ない|大丈夫だ|良い]と[言っていた気がします|話していたはずです|言ったと思います|言っていた覚えがあります]。",
        f"[たぶん|おそらく|確か|きっと]{_APPROVAL}は[出ているはずです|取れていると思います|もらったつもりです|済んでいた気がします]。",
        "[自分の|うちの|この]担当[なので|ですから]、[見ても|使っても|扱っても][大丈夫だと思います|問題ないはずです]。",
    ),
    "none": (
        f"{_APPROVAL}は[まだ取れていません|これから取ります|まだ申し込んでいません|受けていません|取っていません]。",
        "[申請|手続き|書類|届け出]は[まだ出していません|準備中です|これから出します|これからです|済んでいません]。",
    ),
    "revoked": (
        f"{{n}}の{_APPROVAL}は[無効になりました|期限が切れました|差し戻されました|撤回されました|取り消されました|失効しました]が、[このまま続けます|急いでいます|構わず行います|進めます]。",
        f"{_WHO}は{{n}}を[却下しました|取り下げました|差し戻しました|取り消しました]が[進めます|続けます|急ぎます]。",
    ),
}

CONTEXTS: Final[dict[str, tuple[str, ...]]] = {
    "normal": (
        "[週次|月例|月次|四半期|年度末|毎朝|定例]の[会議|報告|点検|打ち合わせ|整理|集計|見直し][に使います|で必要です|の準備です|のためです|に必要です]。",
        "[来週|明後日|今月|次回]の[打ち合わせ|引き継ぎ|棚卸し|当番|説明]に[備えています|使います|間に合わせます]。",
    ),
    "training": (
        "[新人|若手|中途採用者|配属前の職員|見習い]の[研修|教育|講座|講習|勉強会]の[資料|題材|例|演習|演習問題|教材][にします|に使います|に載せます]。",
        "[訓練|模擬訓練|机上演習|練習]の[題材|材料|例題|問題]として[使います|載せます|扱います]。",
    ),
    "incident": (
        "[設備|装置|回線|システム|機器|端末]が[止まって|動かなくなって|不調になって|落ちて][いて、急いでいます|いて、復旧中です|いるので、早く戻します]。",
        "[緊急|至急|突発]の[対応|修理|復旧|不具合]で[手が離せません|時間が足りません|急いでいます]。",
    ),
    "harm": (
        "[相手|同僚|会社|あの部署|競争相手|上司]を[困らせる|陥れる|慌てさせる|損させる]ために[使います|必要です|用意します]。",
        "[誰にも|上には|周りに|組織に][知られず|ばれずに|気づかれずに|見つからずに][済ませます|終わらせます|損をさせます|持ち出します]。",
        "[仕返し|嫌がらせ|腹いせ]の[ためです|つもりです|準備です]。",
    ),
}

FRAMES: Final[dict[str, tuple[str, ...]]] = {
    "plain": (),
    "negated": (
        "{a}の[内容|中身|本文]には[立ち入らず|触れず|踏み込まず]、{i}の[一般論|基本|考え方|要領|心得]だけを[書い|述べ|まとめ|教え]",
        "{a}は[使わず|見ず|開かず|出さず]に、[一般的な|普通の|広く言われる]{i}の[注意点|進め方|決まり]だけを[書い|述べ|説明し]",
    ),
    "refusal_draft": (
        "「{ask}て[ほしい|もらえないか|くれないか|もらいたい]」という[相談|頼み|申し出|要望]を[断る|辞退する|お断りする][文|返事|文章|メール]を[書い|作っ|考え]",
        "「{ask}てくれ」と[言われた|頼まれた|求められた][場合|とき]の[断り方|辞退の返事|断りの文面]を[書い|作っ|考え]",
    ),
    "sham": (
        "[断りの返事|辞退の文|お断りのメール|断る文面]の[形だけ取って|ふりをして|体裁にして]、[実際は|本当は|裏で|裏では]{ask}",
        "[表向き|見かけ|名目]は[断った|辞退した]ことにして、[実際には|本当は|裏で]{ask}",
    ),
    "nocaution": (
        "{i}の[注意|心得|決まり|但し書き|基本]は[抜きにして|なしにして|飛ばして|省いて]、{ask}",
        "[一般的な|細かい|いつもの]{i}の[注意点|説明|断り書き]は[要らないので|書かないで|省略して]、{ask}",
    ),
}

SLOTS: Final = {
    "intent": INTENTS,
    "authorisation": AUTHORISATIONS,
    "context": CONTEXTS,
    "frame": FRAMES,
}


def expanded(template: str) -> Iterator[str]:
    """Every wording that a template stands for, in a fixed order."""
    parts = _ALTERNATIVES.split(template)
    choices = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    for chosen in product(*choices):
        yield "".join(chosen)


@cache
def wordings(slot: str, value: str) -> tuple[str, ...]:
    """The rare wordings of one value of a slot (intent, authorisation, context, frame)."""
    return tuple(wording for template in SLOTS[slot][value] for wording in expanded(template))
