"""The embedder of the validation plan, as a translation to soloist and back.

The plan imports `config` and `core` by name. Nothing is imported here, so that settings can be read without torch.
"""
