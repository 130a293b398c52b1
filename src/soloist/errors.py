"""The errors that soloist raises, as one tree. Each message is a sentence with a remedy.

SoloistError
+-- ConfigError                 a setting that cannot be used
|   +-- UnknownModelError       a model name that is not known
|   +-- FusionError             weights or dimensions that do not fit the models
|   +-- AcceleratorError        an accelerator that is not there or cannot be described
|   +-- UnknownInputError       chunks or questions that are not where a setting says; also an InputError
|   +-- OutputPathError         a path that cannot be the folder of a run; also an OutputError
|   +-- ExportPathError         a path that cannot take an export; also an ExportError
+-- InputError                  chunk files that cannot be read as asked
|   +-- BadChunkError           one chunk that Python gave
|   +-- BadChunkFileError       one file, with the position of the fault
|   +-- DuplicateIdError        two chunks with the same id, both places named
|   +-- NothingToEmbedError     no chunks at all, or none that could be embedded
|   +-- VectorlessTextsError    texts of which a model makes no vector
+-- OutputError                 the run folder cannot be used
+-- ExportError                 a store that fails, or that lost what was written to it
+-- InstallationError           a package is too old, damaged or missing; also an ImportError
+-- ModelLoadError              a model that is known but cannot be loaded
+-- PredictionError             memory or time that cannot be computed
+-- LeaseError                  the devices could not be leased, or were not given back
|   +-- LeaseTimeoutError       another process held the devices for too long
|   +-- DeviceNotEmptyError     a device held tensors of this process before the lease
|   +-- MemoryNotReturnedError  tensors were still on a device after the release
+-- EncodingError               a text could not be turned into a vector
    +-- ModelTooLargeError      a model's weights alone do not fit on a device
    +-- RowTooLargeError        one row alone does not fit on its device
    +-- BadVectorError          NaN, infinity or zero norm, in float32 too
    +-- UnfitDTypeError         NaN, infinity or zero norm in too many vectors

RunInterruptedError is outside the tree: it is a KeyboardInterrupt, as usual in Python.
"""

from __future__ import annotations


class SoloistError(Exception):
    """The base of all errors that soloist raises on purpose."""


class ConfigError(SoloistError):
    """A setting cannot be used as it was given."""


class UnknownModelError(ConfigError):
    """A model name is neither in a catalogue, nor a folder, nor a hub id."""


class FusionError(ConfigError):
    """Weights or dimensions do not fit the models of the ensemble."""


class AcceleratorError(ConfigError):
    """This machine does not have the accelerator, or its description is not understood."""


class InputError(SoloistError):
    """Chunk files cannot be read as the settings ask."""


class UnknownInputError(InputError, ConfigError):
    """A folder of chunks, a collection or a file of questions is not there, or cannot be opened."""


class BadChunkError(InputError):
    """Something that Python gave is not a chunk. The message names its collection and its index."""


class BadChunkFileError(InputError):
    """A file cannot be read as chunks. The message names the file and the position."""


class DuplicateIdError(InputError):
    """Two chunks of a collection have the same id. The message names both places."""


class NothingToEmbedError(InputError):
    """The collections have no chunks, or no chunk that all models can embed."""


class VectorlessTextsError(InputError):
    """A model makes no vector of some texts. The message counts all of them and names the first."""


class OutputError(SoloistError):
    """The run folder cannot be used."""


class OutputPathError(OutputError, ConfigError):
    """A path does not exist, is a file, or is another folder than that of a run."""


class ExportError(SoloistError):
    """A store fails, holds other rows, or lost what was written to it."""


class ExportPathError(ExportError, ConfigError):
    """A path is a file where an export needs a folder, or a folder where it needs a file."""


class RunStoppedError(SoloistError):
    """A run ended early, because a signal or its time limit asked for it. All that it finished is kept."""


class NothingFinishedError(RunStoppedError):
    """The time of a run was over before it had finished anything. The same time would not be enough again."""


class RunInterruptedError(KeyboardInterrupt):
    """A second signal ended a run at once. All that it finished is kept, but not the shard in work."""


class InstallationError(SoloistError, ImportError):
    """A package that soloist needs is too old, damaged or missing, or does not fit another."""


class ModelLoadError(SoloistError):
    """A model is known but cannot be loaded."""


class PredictionError(SoloistError):
    """Memory or time cannot be predicted from what is known of a model, a card or a run."""


class LeaseError(SoloistError):
    """The devices could not be leased, or were not given back."""


class LeaseTimeoutError(LeaseError):
    """Another process held the devices for longer than the time limit."""


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
    """A vector has NaN, infinity or zero norm, in float32 too."""


class UnfitDTypeError(EncodingError):
    """Many vectors of a model have NaN, infinity or zero norm in its dtype."""
