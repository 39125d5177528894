"""The cue readout over a server that runs the file.

A server says only the most probable next tokens, so a label of k tokens takes k requests, each for
one token after the prompt, the cue and the label so far. A label that is not seen is NaN, the row's
`cue` holds null for it, and the decision is ESCALATE. Reserved tokens cannot be read over a server,
so `prefill` is null.

The GGUF file that the server runs is opened here for its vocabulary and template only, so that
prompts are the same token ids as in process.

Covered: which tokens are asked for, and whether the server runs the file. Not covered: requests
(so8t.scoring.backends), and whether the server's settings are those of the card (a card made from
these scores is bound to `Backend.settings`).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from so8t.chat import CUE
from so8t.errors import ArtifactError
from so8t.identity import semantic_digest
from so8t.llama import Engine
from so8t.prompts import LABELS, Prompt, Prompter
from so8t.scoring.backends import Backend, Place
from so8t.scoring.reader import Reading, residual_of

# Poisons every sum that it enters, so a label with one token not seen is not seen as a whole.
UNSEEN = math.nan


def require_same(copy: Path | None, digest: str, where: str) -> bool:
    """Whether the server's own copy was found to be the file.

    Args:
        copy: what the server runs; None where it does not show it.
        digest: semantic digest of the file.
        where: the server's address, for the error.

    Returns:
        False where nothing could be compared.

    Raises:
        ArtifactError: it runs another file.
    """
    if copy is None:
        return False
    # Not by SHA-256: Ollama stores a copy with its tensors in another order.
    if semantic_digest(copy) != digest:
        raise ArtifactError(
            "the server runs another file",
            where=where,
            fix="give the file that it runs, or register this one: `so8t register`",
        )
    return True


class ServedReader:
    """Reads the cue of one model on one server."""

    def __init__(self, vocabulary: Engine, system: str, backend: Backend) -> None:
        # Opened without its weights: the server has them.
        self.vocabulary = vocabulary
        self.backend = backend
        self.prompter = Prompter(vocabulary, system)

    def read(self, text: str) -> Reading:
        """Read the cue of one user's text."""
        return self.read_prompt(self.prompter.prompt(text))

    def read_prompt(self, prompt: Prompt) -> Reading:
        """Read the cue after a prompt; a label that the server does not show is NaN."""
        fed = self.prompter.after(prompt, CUE)
        begin = len(fed.ids)
        labels: list[tuple[int, ...]] = []
        for label in LABELS:
            # Tokenised behind the cue, for alone it could be other tokens.
            whole = self.prompter.after(fed, label)
            labels.append(tuple(whole.ids[begin:]))
        cue = self._sum_labels(fed, labels)
        return Reading(
            prefill=None,
            authority=None,
            cue=cue,
            residual=residual_of(cue),
            reserved_mass=None,
        )

    def _sum_labels(self, fed: Prompt, labels: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
        """Sum the labels' log-probabilities, asking once for every beginning that labels share.

        Args:
            fed: the prompt with the cue.
            labels: token ids of each label.

        Returns:
            One log-probability for each label, NaN where a token was not seen.
        """
        totals = [0.0] * len(labels)
        longest = max(len(tokens) for tokens in labels)
        for depth in range(longest):
            groups = _grouped_by_start(labels, depth)
            for start, members in groups.items():
                # A label that was once not seen stays NaN: asking on would change nothing.
                seen_so_far = [index for index in members if not math.isnan(totals[index])]
                if not seen_so_far:
                    continue
                wanted = [labels[index][depth] for index in seen_so_far]
                place = self._place(fed, start)
                shown = self.backend.next(place, wanted)
                for index, token in zip(seen_so_far, wanted, strict=True):
                    totals[index] += shown.get(token, UNSEEN)
        return tuple(totals)

    def _place(self, fed: Prompt, start: tuple[int, ...]) -> Place:
        # Labels are ASCII, so no beginning of one ends inside a character.
        said = self.vocabulary.detokenize(start).decode("utf-8")
        return Place(fed.text + said, (*fed.ids, *start))


def _grouped_by_start(
    labels: Sequence[tuple[int, ...]], depth: int
) -> dict[tuple[int, ...], list[int]]:
    """The labels that go on at `depth`, as indices, by their tokens up to there."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, tokens in enumerate(labels):
        if len(tokens) > depth:
            start = tokens[:depth]
            groups.setdefault(start, []).append(index)
    return groups
