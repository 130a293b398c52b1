"""A run on many machines: one process drives it, and a worker on each node computes shards."""
