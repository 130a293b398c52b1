"""Accelerators and the exclusive lease on them."""

from soloist.devices.accelerator import Accelerator, open_accelerator
from soloist.devices.lease import DeviceLease

__all__ = ["Accelerator", "DeviceLease", "open_accelerator"]
