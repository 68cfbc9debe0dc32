"""Pre-training of masked autoencoders, guided by keypoints."""

from siftlens.pretraining.adapters import lightly_indices
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.choice import PartialDecoding, loss_weights, split
from siftlens.pretraining.decoder import DecoderSettings
from siftlens.pretraining.detection import detect_images
from siftlens.pretraining.labelled import LabelledImages, hold_labelled
from siftlens.pretraining.loop import Pace
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.pretrain import Pretrained, pretrain
from siftlens.pretraining.probes import ProbeResult, probe
from siftlens.pretraining.randomness import image_keys
from siftlens.pretraining.settings import PretrainSettings

__all__ = [
    "DecoderSettings",
    "LabelledImages",
    "MaskPolicy",
    "MaskedAutoencoder",
    "Pace",
    "PartialDecoding",
    "PretrainSettings",
    "Pretrained",
    "ProbeResult",
    "detect_images",
    "hold_labelled",
    "image_keys",
    "lightly_indices",
    "loss_weights",
    "pretrain",
    "probe",
    "split",
]
