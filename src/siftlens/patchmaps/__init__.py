"""patchmaps."""
