"""Estimates of a run before it begins: time, memory, disk and token lengths."""
