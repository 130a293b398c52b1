"""What other programs leave of the devices for a pass. Knows accelerators, and the weights and needs of a caller.

Plans are for whole devices, but another program may hold memory. If the weights do not fit, that is an error. If
planned batches do not fit, that is a notice, and those batches are split.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from soloist.devices import Accelerator
from soloist.errors import ModelTooLargeError
from soloist.events import EventSink, Notice

# A driver frees the memory of a process some time after the process has ended: others saw 0.5 to 1.5 s.
_PATIENCE_SECONDS = 2.0
_POLL_SECONDS = 0.1
# What a context takes is an assumption, and drivers keep some memory for themselves. Where less than this share of a
# device is missing beside the context, nobody can say that other programs hold it.
_UNEXPLAINED_SHARE = 0.02
_END_THEM = "end those programs (nvidia-smi lists them), "


class Room:
    """The memory of the devices, as the driver says what is free at the beginning of a pass.

    `weights_bytes` are those of each model of the pass.
    """

    def __init__(self, accelerator: Accelerator, weights_bytes: Mapping[str, int], sink: EventSink) -> None:
        self._accelerator = accelerator
        self._weights_bytes = dict(weights_bytes)
        self._sink = sink
        self._free: dict[str, int] = {}
        self._told: set[str] = set()

    def look(self) -> None:
        """Ask the driver what is free. The lease must be held, and the pass must have nothing on the devices.

        Raises:
            ModelTooLargeError: the weights fit on an empty device, but not beside other programs.
        """
        if not self._accelerator.copies_weights:
            return
        need = sum(self._weights_bytes.values())
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self._free = self._free_now()
            short = [device for device in self._free if self._is_short(device, need)]
            if not short:
                return
            if time.monotonic() > deadline:
                raise self._too_large(short[0], need)
            time.sleep(_POLL_SECONDS)

    def see(self, model: str, need_bytes: int) -> None:
        """Say once for each model where its largest planned batch and all weights need more than is free."""
        short = [device for device in self._free if self._is_short(device, need_bytes)]
        if not short or model in self._told:
            return
        self._told.add(model)
        self._sink.emit(
            Notice(
                about=model,
                message=f"{self._state(short[0])}. The model's largest batch so far and the weights need "
                f"{need_bytes / 1e9:.2f} GB, so batches that do not fit are split, which takes longer: "
                f"{self._remedy(short[0], 'or ')}give a smaller --token-budget",
            )
        )

    def _free_now(self) -> dict[str, int]:
        """The free bytes of each device, where they are known."""
        free = {device: self._accelerator.memory(device).free_bytes for device in self._accelerator.devices}
        return {device: size for device, size in free.items() if size is not None}

    def _is_short(self, device: str, need: int) -> bool:
        """Whether a device lacks room that it would have, were it empty."""
        return self._free[device] < need <= self._empty_bytes(device)

    def _empty_bytes(self, device: str) -> int:
        return self._accelerator.total_bytes(device) - self._accelerator.card.context_bytes

    def _others_hold(self, device: str) -> bool:
        """Whether other programs must hold memory of a device, whatever the context takes."""
        missing = self._empty_bytes(device) - self._free[device]
        return missing > _UNEXPLAINED_SHARE * self._accelerator.total_bytes(device)

    def _state(self, device: str) -> str:
        free, total = self._free[device] / 1e9, self._accelerator.total_bytes(device) / 1e9
        why = ", because other programs hold the rest" if self._others_hold(device) else ""
        return f"{device} has {free:.2f} of {total:.2f} GB free{why}"

    def _remedy(self, device: str, more: str = "") -> str:
        return f"{_END_THEM}{more}" if self._others_hold(device) else ""

    def _too_large(self, device: str, need: int) -> ModelTooLargeError:
        models = list(self._weights_bytes)
        verb = "needs" if len(models) == 1 else "together need"
        return ModelTooLargeError(
            f"{' and '.join(models)} {verb} {need / 1e9:.2f} GB for weights, but {self._state(device)}: "
            f"{self._remedy(device)}choose another device, or a smaller --dtype"
        )
