"""Pre-training of masked autoencoders, guided by keypoints."""
