"""What an adapter has learnt, read from the full-precision graph that would be baked: verdicts and language loss by split.

Made for comparisons of ways to train: the *cue* readout (log-probabilities of the three labels after `# 判定`) exists with
and without heads, so that every arm is measured by the same yardstick; the heads' own readout is reported beside it.
Covered: adapters on a stock base. Not covered: quantised files (scoring), calibration.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import cross_entropy

from so8t.chat import CUE
from so8t.files import read_jsonl
from so8t.metrics import macro_f1, rates
from so8t.progress import Progress
from so8t.template import Template
from so8t.training import adapter
from so8t.training.batches import IGNORE, Batch, Example, collate, example_of
from so8t.training.load import OWN, load_full
from so8t.training.objective import Objective
from so8t.verdict import VERDICTS

SCHEMA = "so8t.probe/1"
SIZE = 32  # rows of a batch


def cue_examples(row: dict[str, Any], template: Template, system: str) -> list[Example]:
    """The prompt and `# 判定`, followed by each of the three labels; only the label's tokens count."""
    prompt = template.prompt(system, row["text"]) + CUE
    start = len(template.ids(prompt))
    return [
        Example(
            tuple(template.ids(f"{prompt}{verdict}\n")), start, VERDICTS.index(row["verdict"]), -1
        )
        for verdict in VERDICTS
    ]


def _negative_log_likelihood(objective: Objective, batch: Batch) -> Float[Tensor, " batch"]:
    """Of the completion tokens of each row, summed."""
    hidden, targets = objective.hidden(batch), batch.labels[:, 1:]
    chosen = targets != IGNORE
    losses = cross_entropy(
        objective.logits(hidden[:, :-1][chosen]).float(), targets[chosen], reduction="none"
    )
    return torch.zeros(len(targets)).index_add(0, chosen.nonzero()[:, 0], losses)


def _head_verdicts(objective: Objective, batch: Batch) -> Int[Tensor, " batch"]:
    assert objective.heads is not None
    states = objective.hidden(batch)[batch.ends[:, 0], batch.ends[:, 1]]
    return objective.heads(states)[:, :3].argmax(-1)  # type: ignore[no-any-return]


def _verdict_facts(gold: ndarray, predicted: ndarray) -> dict[str, float]:
    found = rates(gold, predicted)
    kept = ("accuracy", "false_allow_rate", "allow_rate_on_allow")
    return {
        "macro_f1": macro_f1(gold, predicted),
        **{name: value for name in kept if (value := found[name].value) is not None},
    }


@torch.no_grad()
def split_facts(
    objective: Objective, rows: list[dict[str, Any]], template: Template, system: str, bar: Progress
) -> dict[str, Any]:
    """Cue and head verdicts, the loss of the cue's label, and language loss per completion token, on labelled rows."""
    rows = [row for row in rows if row["verdict"]]
    gold = np.array([VERDICTS.index(row["verdict"]) for row in rows])
    scores, heads, loss, tokens = [], [], 0.0, 0
    for start in bar.bar(range(0, len(rows), SIZE), what="probe", unit="batch"):
        piece = rows[start : start + SIZE]
        labels = [[example] for row in piece for example in cue_examples(row, template, system)]
        scores.append(-_negative_log_likelihood(objective, collate(labels, 0)).reshape(-1, 3))
        whole = collate([[example_of(row, template, system)] for row in piece], 0)
        loss += float(_negative_log_likelihood(objective, whole).sum())
        tokens += int((whole.labels[:, 1:] != IGNORE).sum())
        if objective.heads is not None:
            heads.append(_head_verdicts(objective, whole))
    cue = torch.cat(scores)
    facts: dict[str, Any] = {
        "rows": len(rows),
        "language_loss": loss / tokens,
        "cue": _verdict_facts(gold, cue.argmax(-1).numpy()),
    }
    facts["cue"]["log_loss"] = float(cross_entropy(cue, torch.from_numpy(gold)))
    return facts | ({"heads": _verdict_facts(gold, torch.cat(heads).numpy())} if heads else {})


def probe(
    base: Path, folder: Path, prepared: Path, splits: list[str], system: str, progress: Progress
) -> dict[str, Any]:
    """Measure the adapter in `folder` on the unquantised model in `base`.

    Args:
        splits: names of prepared files, such as valid or test_iid.
    """
    config = adapter.read_config(folder)
    model, gates, heads = adapter.load(folder, load_full(base))
    objective, template = Objective(model, heads, use_pet=False).eval(), Template.of(base)
    own = [
        tensor.numel()
        for name, tensor in model.named_parameters()
        if any(part in name for part in OWN)
    ]
    numbers = {
        "adapter": sum(own),
        "gates": sum(g.theta.numel() for g in gates.values()),
        "heads": sum(p.numel() for p in heads.parameters()) if heads else 0,
    }
    found = {}
    for name in splits:
        rows = [row for _, row in read_jsonl(prepared / f"{name}.jsonl")]
        found[name] = split_facts(objective, rows, template, system, progress)
    return {
        "schema": SCHEMA,
        "base_sha256": config["base_sha256"],
        "step": config["selected_step"],
        "trained": numbers,
        "splits": found,
    }
