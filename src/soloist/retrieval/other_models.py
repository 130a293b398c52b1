"""Whether a model on this machine is the one that made a run, by its fingerprint, and else what differs."""

from __future__ import annotations

from soloist.errors import ConfigError
from soloist.models.differences import other_model
from soloist.models.loading import StagedModel
from soloist.retrieval.run_record import ModelRecord

_RUN_AGAIN = "run the command that made the run again, which computes the vectors again"


def require_same(record: ModelRecord, staged: StagedModel) -> None:
    """Refuse a model whose vectors are not the run's. Its files are the run's, where the record says which those are.

    Raises:
        ConfigError: its fingerprint is another.
    """
    if staged.fingerprint == record.fingerprint:
        return
    other = other_model(record.name)
    if not record.files:
        raise ConfigError(
            f"{other}: its weights, prompts or limits differ, or an earlier version of soloist made the run. "
            f"Give --catalogue with the folder of that model, or {_RUN_AGAIN}"
        )
    if staged.document_prompt != record.document_prompt:
        why = f"its prompt of documents is {staged.document_prompt!r} and was {record.document_prompt!r}"
    elif staged.max_tokens != record.max_tokens:
        why = f"it reads {staged.max_tokens} tokens of a document and read {record.max_tokens}"
    else:
        why = "another version of soloist made the run"
    raise ConfigError(f"{other}, because {why}: correct that setting in its catalogue, or {_RUN_AGAIN}")
