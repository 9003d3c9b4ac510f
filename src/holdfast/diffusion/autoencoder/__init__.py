"""Autoencoders with a bottleneck of bits, codebook entries or Gaussian latents."""

from holdfast.diffusion.autoencoder.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    augment_differentiably,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from holdfast.diffusion.autoencoder.bernoulli import (
    BernoulliCode,
    bit_entropy,
    bits_to_tokens,
    check_bits,
    tokens_to_bits,
)
from holdfast.diffusion.autoencoder.bottleneck import Bottleneck, Code
from holdfast.diffusion.autoencoder.convolutional import ConvAutoencoder, Reconstruction
from holdfast.diffusion.autoencoder.gaussian import GaussianKL
from holdfast.diffusion.autoencoder.reconstruction import PerceptualDistance, ReconstructionLoss, train_autoencoder
from holdfast.diffusion.autoencoder.vector_quantizer import VectorQuantizer, code_perplexity, codebook_hash

__all__ = [
    "BernoulliCode",
    "Bottleneck",
    "Code",
    "ConvAutoencoder",
    "GaussianKL",
    "PatchDiscriminator",
    "PerceptualDistance",
    "Reconstruction",
    "ReconstructionLoss",
    "VectorQuantizer",
    "adaptive_weight",
    "augment_differentiably",
    "bit_entropy",
    "bits_to_tokens",
    "check_bits",
    "code_perplexity",
    "codebook_hash",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "tokens_to_bits",
    "train_autoencoder",
]
