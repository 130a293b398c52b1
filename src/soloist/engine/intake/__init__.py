"""The chunks on their way into the run folder, and those that are left out."""
