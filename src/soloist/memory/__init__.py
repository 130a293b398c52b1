"""Memory that is known before it is used: cards, their allocator, the peak of a pass, and the batches that follow."""
