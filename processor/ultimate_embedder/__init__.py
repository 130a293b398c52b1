"""The embedder of the validation plan, as a translation to soloist and back."""

from processor.ultimate_embedder.config import EnsembleConfig, KaggleGPUConfig
from processor.ultimate_embedder.core import UltimateKaggleEmbedderV4

__all__ = ["EnsembleConfig", "KaggleGPUConfig", "UltimateKaggleEmbedderV4"]
