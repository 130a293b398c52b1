"""The arrays that travel between the layers. Types only: nothing here computes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]  # of one text
Vectors = NDArray[np.float32]  # (rows, dim), one vector a row
