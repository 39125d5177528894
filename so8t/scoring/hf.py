"""Both readouts from a Hugging Face directory, in float32 on the CPU: the GGUF file's reference.

Prompts are made by the same `Prompter`, over the directory's own tokenizer, so the token ids are
those of the GGUF file (`so8t gguf verify` shows that the two tokenise alike). Scores of a directory
are bound to the digest of its files, which no GGUF has. A calibration card made from them can
therefore serve nothing.

Covered: prefill, authority, cue, residual and reserved mass of one prompt.
Not covered: speed; nothing is kept between prompts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t.chat import CUE
from so8t.errors import ArtifactError
from so8t.model_folder import read_object
from so8t.prompts import LABELS, Prompt, Prompter
from so8t.scoring.reader import Reading, mass_of, residual_of, summed_log_probability
from so8t.template import TOKENIZER, chat_template
from so8t.verdict import AUTHORITIES, VERDICTS

FIX = "give a directory that `transformers` can load: config.json, safetensors, tokenizer files"


class HfVocabulary:
    """A directory's tokenizer, as `Prompter` needs it.

    Raises:
        ArtifactError: transformers cannot load it.
    """

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        self.path = directory
        # A cut-off file would end in an error without a class of its own.
        read_object(directory, TOKENIZER, required=False)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                directory,
                local_files_only=True,
                # A model's own Python code would run with the user's rights.
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            raise _not_loaded("tokenizer", directory, error) from None
        self.n_vocab = len(self._tokenizer)
        self._added = set(self._tokenizer.added_tokens_decoder)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; control tokens are read as such, no BOS or EOS is added."""
        encoded = self._tokenizer(text, add_special_tokens=False)
        return list(encoded["input_ids"])

    def token_text(self, token: int) -> str:
        """The token as the vocabulary spells it."""
        return str(self._tokenizer.convert_ids_to_tokens(token))

    def is_control(self, token: int) -> bool:
        """Whether it was added to the vocabulary: special or user-defined."""
        return token in self._added

    def id_of(self, text: str) -> int:
        """Id of the one token spelled exactly `text`.

        Raises:
            ArtifactError: the vocabulary has no such token.
        """
        found = self._tokenizer.get_vocab().get(text)
        if found is None:
            raise ArtifactError(
                f"the vocabulary has no single token {text!r}",
                where=str(self.path),
                fix="check base.tokens in params.yaml",
            )
        return int(found)

    def keys(self) -> dict[str, Any]:
        """Template, BOS and EOS under the names that a GGUF has."""
        keys: dict[str, Any] = {"tokenizer.chat_template": chat_template(self.path)}
        ids = {
            "tokenizer.ggml.bos_token_id": self._tokenizer.bos_token_id,
            "tokenizer.ggml.eos_token_id": self._tokenizer.eos_token_id,
        }
        for key, token in ids.items():
            # Some tokenizers have no BOS. A file converted from them has no key for it.
            if token is not None:
                keys[key] = token
        return keys


class HfReader:
    """Reads verdicts from a Hugging Face directory.

    Args:
        directory: model and tokenizer.
        system: the system prompt.
        tokens: reserved token texts by role (allow, escalate, deny, handle, human), as in
            params.yaml under base.tokens.
        threads: CPU threads.

    Raises:
        ArtifactError: the directory cannot be loaded, or has no such tokens or no template.
    """

    def __init__(
        self, directory: Path, system: str, tokens: Mapping[str, str], threads: int
    ) -> None:
        vocabulary = HfVocabulary(directory)
        self.prompter = Prompter(vocabulary, system, vocabulary.keys())
        # params.yaml writes the roles in small letters, as the authorities are.
        verdict_texts = [tokens[verdict.lower()] for verdict in VERDICTS]
        authority_texts = [tokens[authority] for authority in AUTHORITIES]
        # From the parameters: a directory has no key that names them, as a GGUF file has.
        self.verdict_ids = [vocabulary.id_of(text) for text in verdict_texts]
        self.authority_ids = [vocabulary.id_of(text) for text in authority_texts]
        self._model = _load(directory, threads)

    def read(self, text: str) -> Reading:
        """Read both readouts of one user's text."""
        return self.read_prompt(self.prompter.prompt(text))

    def read_prompt(self, prompt: Prompt) -> Reading:
        """Read both readouts after a prompt."""
        last = len(prompt.ids) - 1
        logits = self._logits(prompt.ids, last)[0]
        fed = self.prompter.after(prompt, CUE)
        cue = tuple(self._label(fed, label) for label in LABELS)
        return Reading(
            prefill=tuple(logits[self.verdict_ids]),
            authority=tuple(logits[self.authority_ids]),
            cue=cue,
            residual=residual_of(cue),
            reserved_mass=mass_of(logits, {*self.verdict_ids, *self.authority_ids}),
        )

    def _label(self, fed: Prompt, label: str) -> float:
        """Log-probability of a label's tokens after the cue."""
        whole = self.prompter.after(fed, label).ids
        begin = len(fed.ids)
        # The logits at one position predict the token at the next.
        rows = self._logits(whole[:-1], begin - 1)
        return summed_log_probability(rows, whole[begin:])

    def _logits(self, ids: list[int], start: int) -> NDArray[np.float64]:
        """Logits from position `start` on: float64 [len(ids) - start, n_vocab]."""
        import torch

        # Without inference mode torch would keep every intermediate result for a gradient.
        with torch.inference_mode():
            output = self._model(torch.tensor([ids]), use_cache=False)
        rows = output.logits[0, start:]
        # The sums of a softmax over the vocabulary are made in float64, as for a GGUF file.
        return np.asarray(rows.double().numpy())


def _load(directory: Path, threads: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    # For the whole process: torch has no setting for one model.
    torch.set_num_threads(threads)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            # The plain formula: faster kernels round otherwise.
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            # Other weight files are pickles, which can run code when they are loaded.
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise _not_loaded("model", directory, error) from None
    return model.eval()


def _not_loaded(what: str, directory: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"the {what} cannot be loaded ({type(error).__name__})",
        where=str(directory),
        fix=FIX,
    )


def settings(threads: int) -> dict[str, Any]:
    """What besides the directory makes a number."""
    import torch
    import transformers

    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "dtype": "float32",
        "attention": "eager",
        "threads": threads,
    }
