"""Attention read through maps of concentration: statistics, nulls and intervals."""
