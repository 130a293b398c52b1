"""The fusion methods, a module each. `soloist.fusion_methods` is their table."""
