"""The size of batches: what saturates a device, what its memory holds, and what was measured of both."""
