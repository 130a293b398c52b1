"""The errors that a caller can meet, as one tree. Each message is a sentence with a remedy.

SoloistError
+-- ConfigError                 a setting that cannot be honoured
|   +-- UnknownModelError       a model name that resolves to nothing
|   +-- FusionError             weights or dimensions that do not fit the models
|   +-- AcceleratorError        an accelerator that is not there or cannot be described
+-- InputError                  chunk files that cannot be read as asked
|   +-- BadChunkFileError       one file, with the position of the fault
|   +-- DuplicateIdError        two chunks with one id, both places named
|   +-- NothingToEmbedError     no chunks at all, or none that could be embedded
|   +-- VectorlessTextsError    texts of which a model makes no vector, all of them counted
+-- OutputError                 the run folder cannot be used
+-- ExportError                 a store that fails, or does not have what was written to it
+-- ModelLoadError              a model that is named correctly but cannot be loaded
+-- PredictionError             memory or time that cannot be computed
+-- LeaseError                  the devices could not be leased, or were not given back
|   +-- LeaseTimeoutError       somebody else held the devices for too long
|   +-- DeviceNotEmptyError     a device held our tensors before the lease began
|   +-- MemoryNotReturnedError  tensors were still there after the release
+-- EncodingError               a text could not be turned into a vector
    +-- ModelTooLargeError      a model's weights alone do not fit on a device
    +-- RowTooLargeError        one row alone does not fit on its device
    +-- BadVectorError          NaN, infinity or zero norm, in fp32 too

Beside the tree, as Python has it: RunInterruptedError, a KeyboardInterrupt.
"""

from __future__ import annotations


class SoloistError(Exception):
    """Base of every error that soloist raises on purpose."""


class ConfigError(SoloistError):
    """A setting that cannot be honoured as it was given."""


class UnknownModelError(ConfigError):
    """A model name that is neither in a catalogue, nor a folder, nor a hub id."""


class FusionError(ConfigError):
    """Weights or dimensions that do not fit the models of the ensemble."""


class AcceleratorError(ConfigError):
    """An accelerator that this machine does not have, or a description that cannot be read."""


class InputError(SoloistError):
    """Chunk files that cannot be read as asked."""


class BadChunkFileError(InputError):
    """One file is not readable as chunks; the message names the file and the position."""


class DuplicateIdError(InputError):
    """Two chunks of a collection have the same id; the message names both places."""


class NothingToEmbedError(InputError):
    """The collections have no chunks, or none of which each model makes a vector."""


class VectorlessTextsError(InputError):
    """A model makes no vector of some texts; the message counts all of them and names the first."""


class OutputError(SoloistError):
    """The run folder cannot be used."""


class ExportError(SoloistError):
    """A store that fails, that holds something else, or that does not have what was written to it."""


class RunStoppedError(SoloistError):
    """A run ended before it was done, because it was told to; all that it finished is kept."""


class NothingFinishedError(RunStoppedError):
    """The time of a run was over before it had finished anything: the same time would end it there again."""


class RunInterruptedError(KeyboardInterrupt):
    """A run was ended at once, by a second signal; all that it finished is kept, the shard in work is not."""


class ModelLoadError(SoloistError):
    """A model that is named correctly but cannot be loaded."""


class PredictionError(SoloistError):
    """Memory or time that cannot be computed from what is known of a model, a card or a run."""


class LeaseError(SoloistError):
    """The devices could not be leased, or were not given back."""


class LeaseTimeoutError(LeaseError):
    """Another process held the devices for longer than we were told to wait."""


class DeviceNotEmptyError(LeaseError):
    """A device held tensors of this process before the lease began."""


class MemoryNotReturnedError(LeaseError):
    """Tensors were still on a device after its lease was released."""


class EncodingError(SoloistError):
    """A text could not be turned into a vector."""


class ModelTooLargeError(EncodingError):
    """The weights of a model alone do not fit on a device."""


class RowTooLargeError(EncodingError):
    """A single row does not fit on its device."""


class BadVectorError(EncodingError):
    """A vector with NaN, infinity or zero norm, in fp32 too."""
