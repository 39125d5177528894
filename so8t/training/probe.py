"""What an adapter has learnt: its verdicts and language loss by split, without baking it.

It is read from the full-precision graph that would be baked, and serves comparisons of ways to
train (`so8t ablation`). The *cue* readout is the log-probability of each of the three labels
after the heading `# 判定` (the cue). It exists with and without heads, so that every arm of a
comparison is measured in the same way; the heads' own readout is reported beside it.

Covered: adapters on a stock base. Not covered: quantised files (so8t.scoring), calibration.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import cross_entropy

from so8t.base.batches import IGNORE, Batch, Example, collate, example_of
from so8t.base.load import OWN, load_full
from so8t.chat import CUE
from so8t.metrics import macro_f1, rates
from so8t.progress import Progress
from so8t.rows import Row, read_rows
from so8t.template import Template
from so8t.training import adapter
from so8t.training.objective import Objective
from so8t.verdict import VERDICTS, Verdict

SCHEMA = "so8t.probe/1"
# Rows of a batch. With its three labels each row is four sequences.
SIZE = 32
REPORTED_RATES = ("accuracy", "false_allow_rate", "allow_rate_on_allow")


def cue_examples(
    text: str,
    verdict: Verdict,
    template: Template,
    system: str,
) -> list[Example]:
    """The prompt and the cue with each of the three labels; only the label's tokens count."""
    prompt = template.prompt(system, text) + CUE
    start = len(template.ids(prompt))
    gold = VERDICTS.index(verdict)
    examples = []
    for label in VERDICTS:
        # The newline ends the label, as in a real answer.
        ids = template.ids(f"{prompt}{label}\n")
        examples.append(Example(tuple(ids), start, gold, authority=-1))
    return examples


def _negative_log_likelihood(objective: Objective, batch: Batch) -> Float[Tensor, " batch"]:
    """Of the completion tokens of each row, summed, in nats."""
    hidden = objective.hidden(batch)
    # The state at position t predicts the token at t + 1.
    targets = batch.labels[:, 1:]
    chosen = targets != IGNORE
    states = hidden[:, :-1][chosen]
    logits = objective.logits(states).float()
    losses = cross_entropy(logits, targets[chosen], reduction="none")
    # Masking has flattened the rows: each loss goes back to its own.
    rows = chosen.nonzero()[:, 0]
    return torch.zeros(len(targets)).index_add(0, rows, losses)


def _head_verdicts(objective: Objective, batch: Batch) -> Int[Tensor, " batch"]:
    assert objective.heads is not None
    rows, positions = batch.ends.unbind(1)
    states = objective.hidden(batch)[rows, positions]
    roles: Tensor = objective.heads(states)
    # The two columns after the verdicts are the authorities.
    verdicts = roles[:, : len(VERDICTS)]
    return verdicts.argmax(-1)


def _verdict_facts(gold: ndarray, predicted: ndarray) -> dict[str, float]:
    facts = {"macro_f1": macro_f1(gold, predicted)}
    found = rates(gold, predicted)
    for name in REPORTED_RATES:
        value = found[name].value
        # A rate over no rows has no value, and the split then has no such entry.
        if value is not None:
            facts[name] = value
    return facts


@torch.no_grad()
def split_facts(
    objective: Objective,
    rows: list[Row],
    template: Template,
    system: str,
    progress: Progress,
) -> dict[str, Any]:
    """Measure one split on its labelled rows.

    Returns:
        JSON: `rows`, `language_loss` (nats per completion token), `cue` (rates of its verdicts, and
        the log-loss of the right label among the three), and `heads` where there are heads.
    """
    labelled = [(row, row.verdict) for row in rows if row.verdict]
    gold = np.array([VERDICTS.index(verdict) for _, verdict in labelled])
    cue_scores = []
    head_verdicts = []
    loss = 0.0
    tokens = 0
    for start in progress.bar(range(0, len(labelled), SIZE), what="probe", unit="batch"):
        piece = labelled[start : start + SIZE]
        cued = []
        answered = []
        for row, verdict in piece:
            cued += cue_examples(row.text, verdict, template, system)
            answered.append(example_of(row, template, system))
        # Padding counts nowhere, so that any token id will do.
        cues = collate([[example] for example in cued], pad=0)
        losses = _negative_log_likelihood(objective, cues)
        cue_scores.append(-losses.reshape(-1, len(VERDICTS)))
        whole = collate([[example] for example in answered], pad=0)
        losses = _negative_log_likelihood(objective, whole)
        loss += float(losses.sum())
        learnt = whole.labels[:, 1:] != IGNORE
        tokens += int(learnt.sum())
        if objective.heads is not None:
            head_verdicts.append(_head_verdicts(objective, whole))
    cue = torch.cat(cue_scores)
    chosen = cue.argmax(-1).numpy()
    cue_facts = _verdict_facts(gold, chosen)
    # Among the three labels alone: cross-entropy normalises their log-probabilities.
    log_loss = cross_entropy(cue, torch.from_numpy(gold))
    cue_facts["log_loss"] = float(log_loss)
    facts: dict[str, Any] = {
        "rows": len(labelled),
        "language_loss": loss / tokens,
        "cue": cue_facts,
    }
    if head_verdicts:
        read = torch.cat(head_verdicts).numpy()
        facts["heads"] = _verdict_facts(gold, read)
    return facts


def probe(
    base: Path,
    folder: Path,
    prepared: Path,
    splits: list[str],
    system: str,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the adapter in `folder` on the unquantised model in `base`.

    Args:
        base: the base model's folder.
        folder: the adapter's folder.
        prepared: the folder of prepared rows.
        splits: names of prepared files, such as valid or test_iid.
        system: the system prompt.
        progress: told of every batch.

    Returns:
        The JSON that the `probe` stage writes.
    """
    config = adapter.read_config(folder)
    model, gates, heads = adapter.load(folder, load_full(base))
    objective = Objective(model, heads, use_pet=False).eval()
    template = Template.of(base)
    # Reported so that the arms of a comparison can be matched by size.
    adapter_numbers = 0
    for name, tensor in model.named_parameters():
        if any(part in name for part in OWN):
            adapter_numbers += tensor.numel()
    gate_numbers = sum(gate.theta.numel() for gate in gates.values())
    head_numbers = 0
    if heads is not None:
        head_numbers = sum(tensor.numel() for tensor in heads.parameters())
    found = {}
    for name in splits:
        rows = list(read_rows(prepared / f"{name}.jsonl"))
        found[name] = split_facts(objective, rows, template, system, progress)
    return {
        "schema": SCHEMA,
        "base_sha256": config["base_sha256"],
        "step": config["selected_step"],
        "trained": {
            "adapter": adapter_numbers,
            "gates": gate_numbers,
            "heads": head_numbers,
        },
        "splits": found,
    }
