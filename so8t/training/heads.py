"""Verdict and authority heads that fold into reserved lm_head rows.

`triality`: one set of prototypes U is seen in two frames of one generator: safety reads U R_+ h, authority the first
two prototypes as U R_- h. `plain`: free rows for each head (the baseline; with free rows R would be absorbed).
Reserved rows are read, never emitted and never fed; the language-model loss sees them as wrong answers everywhere.
"""

import re
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from so8t import triality
from so8t.errors import ArtifactError
from so8t.params import RoleTokens, spare_row
from so8t.rotation import BLOCK, FREE, fold_grad

ROLES = ("allow", "escalate", "deny", "handle", "human")
RESERVED = re.compile(r"^<\|?.*(?:reserved|placeholder|unused|dummy|extra_id).*>$")
START_STD = 0.02
START_ANGLE_STD = 0.1


class Heads(nn.Module):
    """Five rows over the final normed hidden state: three verdicts, two authorities."""

    def __init__(
        self, width: int, token_ids: list[int], mode: Literal["triality", "plain"], seed: int
    ) -> None:
        super().__init__()
        if width % BLOCK:
            raise ArtifactError(
                f"hidden size {width} is not a multiple of {BLOCK}",
                fix="heads.mode: plain needs it too; use another base",
            )
        random = torch.Generator().manual_seed(seed)
        self.mode = mode
        self.token_ids = list(token_ids)
        self.held: Tensor | None = None  # the rows of the current step, lent by a Bank
        rows = 3 if mode == "triality" else 5
        self.prototypes = nn.Parameter(torch.randn(rows, width, generator=random) * START_STD)
        if mode == "triality":
            self.theta = nn.Parameter(
                torch.randn(width // BLOCK, FREE, generator=random) * START_ANGLE_STD
            )

    def rows(self) -> Float[Tensor, "5 width"]:
        """The lm_head rows of (allow, escalate, deny, handle, human), in float32."""
        if self.mode == "plain":
            return self.prototypes
        safety = fold_grad(self.prototypes, triality.rotation(self.theta, "S+"))
        authority = fold_grad(self.prototypes[:2], triality.rotation(self.theta, "S-"))
        return torch.cat([safety, authority])

    def forward(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch 5"]:
        """Logits of the five roles."""
        return hidden.float() @ (self.rows() if self.held is None else self.held).T

    def into(
        self, logits: Float[Tensor, "*batch vocab"], hidden: Float[Tensor, "*batch width"]
    ) -> Float[Tensor, "*batch vocab"]:
        """The full-vocabulary logits as the baked model computes them: reserved columns replaced."""
        ids = torch.tensor(self.token_ids, device=logits.device)
        return logits.index_copy(-1, ids, self(hidden).to(logits.dtype))


def role_token_ids(tokens: RoleTokens, tokenizer: Any, rows: int) -> list[int]:
    """Ids of the five reserved tokens, or of rows behind the vocabulary's last token that `[PADn]` names.

    Args:
        rows: rows of the model's embedding.

    Raises:
        ArtifactError: a token that the vocabulary lacks, or one token for two roles.
    """
    names = [getattr(tokens, role) for role in ROLES]
    used = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    ids = [
        spare_row(name, used, rows) if (known := tokenizer.token_to_id(name)) is None else known
        for name in names
    ]
    if missing := [name for name, token in zip(names, ids, strict=True) if token is None]:
        raise ArtifactError(
            f"the vocabulary has no {missing}",
            where="params.yaml: base.tokens",
            fix=_reserved(tokenizer, used, rows),
        )
    if len(set(ids)) != len(ids):
        raise ArtifactError(
            "one reserved token is named for two roles",
            where="params.yaml: base.tokens",
            fix="name five different tokens",
        )
    return [int(token) for token in ids if token is not None]


def _reserved(tokenizer: Any, used: int, rows: int) -> str:
    """What this vocabulary offers for the heads' rows."""
    named = sorted(
        name for name in tokenizer.get_vocab(with_added_tokens=True) if RESERVED.search(name)
    )
    if len(named) >= len(ROLES):
        return f"name five of this vocabulary's {len(named)} reserved tokens, such as {named[0]}"
    if rows - used >= len(ROLES):
        return f"rows {used} to {rows - 1} belong to no token: name five of them, [PAD{used}] to [PAD{rows - 1}]"
    return (
        "this vocabulary has no reserved token and no spare row: use another base. Tokens are not added, because a grown tokenizer is what makes "
        "engines disagree"
    )
