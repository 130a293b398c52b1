"""The parts of the proof. Each module has functions that take a `Setting` and give what they saw."""
