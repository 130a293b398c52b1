"""Adapters under the names that the validation plan uses; the work is done by soloist."""
