"""What a run does beside the reading and after it: models are staged, tables embed, and texts are left out."""
