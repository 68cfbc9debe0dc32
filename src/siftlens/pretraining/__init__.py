"""Pre-training of masked autoencoders, guided by keypoints."""

from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.choice import PartialDecoding, loss_weights, split
from siftlens.pretraining.decoder import DecoderSettings
from siftlens.pretraining.detection import detect_images
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.randomness import image_keys

__all__ = [
    "DecoderSettings",
    "MaskPolicy",
    "MaskedAutoencoder",
    "PartialDecoding",
    "detect_images",
    "image_keys",
    "loss_weights",
    "split",
]
