"""Verdict and authority heads that fold into rows of lm_head (the output matrix).

Five reserved tokens, which no text uses, lend their rows of the output matrix: three score the
verdicts ALLOW, ESCALATE and DENY, two score who handles the request (the assistant or a person). A
stock engine computes them as logits at the end of the prompt, without a graph of its own.

Two ways to make the rows:

* `triality`: three prototypes U are seen in two frames of one generator (so8t.triality). Safety
  reads U R_+ h, and authority reads the first two prototypes as U R_- h.
* `plain`: free rows for each head. This is the baseline; a rotation of free rows would be absorbed
  by them.

Reserved tokens are read, never emitted and never fed; the language-model loss sees them as wrong
answers everywhere.
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

# In the order of the heads' rows: VERDICTS, then AUTHORITIES.
ROLES = ("allow", "escalate", "deny", "handle", "human")
# How known vocabularies name tokens that no text uses; only to suggest some in an error message.
RESERVED = re.compile(r"^<\|?.*(?:reserved|placeholder|unused|dummy|extra_id).*>$")
# Standard deviations at the start: of the prototypes, as usual for embeddings, and of theta's
# numbers (radians). Were theta zero, both frames would be one at the start.
START_STD = 0.02
START_ANGLE_STD = 0.1


class Heads(nn.Module):
    """Five rows over the final normed hidden state: three verdicts, two authorities.

    Args:
        width: of the hidden state.
        token_ids: ids of the five reserved tokens, in the order of ROLES.
        mode: `triality` or `plain`, see the module's docstring.
        seed: of the random start.

    Attributes:
        prototypes: float32 parameter, [3, width] (triality) or [5, width] (plain).
        theta: float32 parameter [width / 8, 28]; in `triality` only.
        held: the rows of the current step, lent by a `Bank`; None outside a step.

    Raises:
        ArtifactError: a width that is not a multiple of eight.
    """

    def __init__(
        self, width: int, token_ids: list[int], mode: Literal["triality", "plain"], seed: int
    ) -> None:
        super().__init__()
        if width % BLOCK:
            raise ArtifactError(
                f"hidden size {width} is not a multiple of {BLOCK}",
                fix="heads.mode: plain needs it too; use another base",
            )
        # A generator of its own, so that the start is a function of `seed` alone.
        random = torch.Generator().manual_seed(seed)
        self.mode = mode
        self.token_ids = list(token_ids)
        self.held: Tensor | None = None
        rows = 3 if mode == "triality" else 5
        prototypes = torch.randn(rows, width, generator=random)
        self.prototypes = nn.Parameter(prototypes * START_STD)
        if mode == "triality":
            theta = torch.randn(width // BLOCK, FREE, generator=random)
            self.theta = nn.Parameter(theta * START_ANGLE_STD)

    def rows(self) -> Float[Tensor, "5 width"]:
        """The lm_head rows of (allow, escalate, deny, handle, human), in the parameters' dtype."""
        if self.mode == "plain":
            return self.prototypes
        safety = fold_grad(self.prototypes, triality.rotation(self.theta, "S+"))
        authority = fold_grad(self.prototypes[:2], triality.rotation(self.theta, "S-"))
        return torch.cat([safety, authority])

    def forward(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch 5"]:
        """Logits of the five roles, in float32."""
        rows = self.held
        if rows is None:
            rows = self.rows()
        # In float32 also where the base computes in 16 bits: verdicts hang on small differences.
        return hidden.float() @ rows.T

    def into(
        self, logits: Float[Tensor, "*batch vocab"], hidden: Float[Tensor, "*batch width"]
    ) -> Float[Tensor, "*batch vocab"]:
        """The full-vocabulary logits as the baked model computes them: reserved columns replaced.

        Args:
            logits: what the base's own output matrix gives for `hidden`.
            hidden: final normed hidden states.
        """
        ids = torch.tensor(self.token_ids, device=logits.device)
        columns = self(hidden).to(logits.dtype)
        return logits.index_copy(-1, ids, columns)


def role_token_ids(tokens: RoleTokens, tokenizer: Any, rows: int) -> list[int]:
    """Ids of the five reserved tokens, in the order of ROLES.

    A name is that of a token, or `[PADn]` for row n of the matrices if it lies behind the
    vocabulary's last token (llama.cpp's own name for such rows).

    Args:
        tokens: the five names, from params.yaml.
        tokenizer: of the `tokenizers` library.
        rows: rows of the model's embedding.

    Raises:
        ArtifactError: a token that the vocabulary lacks, or one token for two roles.
    """
    # Not the vocabulary's length: ids may have gaps.
    used = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    ids: list[int] = []
    missing: list[str] = []
    for role in ROLES:
        name = getattr(tokens, role)
        token = tokenizer.token_to_id(name)
        if token is None:
            token = spare_row(name, used, rows)
        if token is None:
            missing.append(name)
        else:
            ids.append(int(token))
    if missing:
        raise ArtifactError(
            f"the vocabulary has no {missing}",
            where="params.yaml: base.tokens",
            fix=_suggestion(tokenizer, used, rows),
        )
    if len(set(ids)) != len(ids):
        raise ArtifactError(
            "one reserved token is named for two roles",
            where="params.yaml: base.tokens",
            fix="name five different tokens",
        )
    return ids


def _suggestion(tokenizer: Any, used: int, rows: int) -> str:
    """What this vocabulary offers for the heads' rows."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    named = sorted(name for name in vocabulary if RESERVED.search(name))
    if len(named) >= len(ROLES):
        return f"name five of this vocabulary's {len(named)} reserved tokens, such as {named[0]}"
    if rows - used >= len(ROLES):
        return (
            f"rows {used} to {rows - 1} belong to no token: "
            f"name five of them, [PAD{used}] to [PAD{rows - 1}]"
        )
    return (
        "this vocabulary has no reserved token and no spare row: use another base. "
        "Tokens are not added, because a grown tokenizer is what makes engines disagree"
    )
