"""From texts to vectors: the batch plan, the encoder of one model, and its replicas on the leased devices."""
