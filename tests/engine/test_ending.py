"""How a run that did not come to its end says why."""

from __future__ import annotations

import pytest

from soloist.engine.ending import Finished
from soloist.errors import NothingFinishedError, RunStoppedError
from soloist.stopping import Stop


@pytest.mark.parametrize("limit", [None, 3600.0])
def test_who_gave_too_little_time_is_told_so_and_nobody_else(limit):
    """Catches advice about --stop-after where the last node of a cluster ended before anything was finished."""
    stop = Stop()
    stop.limit(limit)
    with pytest.raises(RunStoppedError, match=r"no node is left$") as caught, Finished().something_or_said(stop):
        raise RunStoppedError("stopped because no node is left")
    assert not isinstance(caught.value, NothingFinishedError)
    stop.limit(0.0)
    with pytest.raises(NothingFinishedError, match="give --stop-after enough time"), Finished().something_or_said(stop):
        stop.check()
