"""Accelerators and the exclusive lease on them."""

from soloist.devices.accelerator import Accelerator, open_accelerator
from soloist.devices.lease import GpuLease

__all__ = ["Accelerator", "GpuLease", "open_accelerator"]
