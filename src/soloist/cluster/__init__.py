"""Machines that work together: their address, nodes of this machine, and a session with a Ray cluster.

Knows Ray, which is imported when a session begins. Knows nothing of models, of devices or of what a run is.
"""
