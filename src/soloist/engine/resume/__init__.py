"""What a folder has from earlier runs: whether it fits this one, and what of it is taken."""
