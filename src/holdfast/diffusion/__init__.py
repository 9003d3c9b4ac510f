"""Diffusion models: processes, targets, networks and samplers as four different things."""

from holdfast.diffusion.adapters import (
    CheckpointReport,
    DiTAdapter,
    UNetAdapter,
    dit_from_checkpoint,
    load_dit_checkpoint,
    pretrained_denoiser,
)
from holdfast.diffusion.alignment import AlignmentLoss, Projector, cosine_alignment, ntxent_alignment
from holdfast.diffusion.alternating import (
    ADDP,
    FrozenTokenizer,
    MaskedTokenPredictor,
    PixelToToken,
    RatioLaw,
    soft_token_loss,
    train_addp,
    train_token_predictor,
)
from holdfast.diffusion.antithetic import denoising_loss
from holdfast.diffusion.autoencoder import (
    BernoulliCode,
    Bottleneck,
    Code,
    ConvAutoencoder,
    GaussianKL,
    PatchDiscriminator,
    PerceptualDistance,
    ReconstructionLoss,
    VectorQuantizer,
    bits_to_tokens,
    code_perplexity,
    tokens_to_bits,
    train_autoencoder,
)
from holdfast.diffusion.backbones.bit_transformer import BitTransformer
from holdfast.diffusion.backbones.dit import DIT_SIZES, DiT
from holdfast.diffusion.backbones.embeddings import LabelEmbedding, TimeEmbedding, sincos_positions
from holdfast.diffusion.backbones.mlp import DenoisingMLP
from holdfast.diffusion.backbones.token_transformer import TokenTransformer
from holdfast.diffusion.backbones.transformer import ModulatedBlock, Transformer
from holdfast.diffusion.backbones.unet import BlockInfo, UNet
from holdfast.diffusion.backbones.unet_blocks import wake_zero_layers
from holdfast.diffusion.backbones.vit import ViTEncoder
from holdfast.diffusion.binary import (
    BinaryDiffusion,
    BinarySchedule,
    BitPredictor,
    binary_ancestral,
    bit_probabilities,
    train_binary_diffusion,
)
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser, Output, Predictor
from holdfast.diffusion.draws import bernoulli, categorical, gumbel_argmax, uniform_open
from holdfast.diffusion.editing import apply_edit, edit_direction
from holdfast.diffusion.edm import EDMPreconditioner, EDMWeight, LogNormalSigma, VEPath
from holdfast.diffusion.error_decomposition import decompose_velocity_error
from holdfast.diffusion.evaluation import GeneratorEvaluation, evaluate_generator
from holdfast.diffusion.feature_classifier import DiffusionFeatureClassifier
from holdfast.diffusion.feature_encoder import DiffusionEncoder
from holdfast.diffusion.feature_grid import FeatureGrid, feature_quality_map, few_labels, sweep_features
from holdfast.diffusion.feature_spaces import classifier_space, model_space, random_convolution_space, train_judge
from holdfast.diffusion.feature_table import FeatureTable, model_hash
from holdfast.diffusion.features import DiffusionFeatures, pool_map
from holdfast.diffusion.feedback import DecoderFeedback
from holdfast.diffusion.finetune import finetune, layer_decay_groups
from holdfast.diffusion.frozen_encoder import FrozenEncoder, RepresentationTarget, encode_all, resample_tokens
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.gumbel_truncation import gumbel_ceiling, truncated_gumbel_probs
from holdfast.diffusion.head_training import crop_and_flip, head_logits, train_head
from holdfast.diffusion.heads import AttentionHead, ConvHead, FusionHead, LinearHead, MLPHead
from holdfast.diffusion.jacobian import JacobianSVD, jacobian_spectrum, jacobian_svd, numerical_rank
from holdfast.diffusion.masked import (
    AncestralMaskedSampler,
    ConfidenceSampler,
    CosineMask,
    FirstHittingSampler,
    GeometricMask,
    LinearMask,
    MaskSchedule,
    TokenModel,
    TwoStageMaskedSampler,
    exact_masked_nelbo,
    expected_nfe,
    hitting_times,
    mask_bernoulli,
    mask_exactly,
    masked_cross_entropy,
    masked_nelbo,
    nested_masks,
    truncated_ancestral_law,
)
from holdfast.diffusion.model import DiffusionModel
from holdfast.diffusion.networks import make_denoising_network
from holdfast.diffusion.objective import DiffusionObjective, Term, TermContext, train_diffusion
from holdfast.diffusion.oracles.bits import ExactBitDenoiser
from holdfast.diffusion.oracles.empirical import EmpiricalDenoiser
from holdfast.diffusion.oracles.gaussian import GaussianMixtureOracle, GaussianOracle
from holdfast.diffusion.oracles.markov_chain import ExactChainDenoiser, MarkovChain
from holdfast.diffusion.paths import Coefficients, CosinePath, LinearPath, Path, VPPath
from holdfast.diffusion.phases import Phase, PhaseRecord, PhasesResult, block_cost, fit_phases

# samplers.ddpm stays there: its name here is that of the schedule's module.
from holdfast.diffusion.samplers import (
    TimeGrid,
    ddim,
    ddim_invert,
    edm_heun,
    euler,
    euler_maruyama,
    heun,
    inpaint,
    karras_sigmas,
    prior,
    time_grid,
)
from holdfast.diffusion.samples import Samples
from holdfast.diffusion.sampling import SAMPLERS, draw_samples
from holdfast.diffusion.scaling import DataScaling
from holdfast.diffusion.schedules import ExponentialDecay, Schedule, weight_at
from holdfast.diffusion.self_alignment import SelfAlignmentLoss, teacher_times
from holdfast.diffusion.time_steps import (
    PDAE,
    ConvCodeEncoder,
    DiTi,
    GuidedDenoiser,
    MLPCodeEncoder,
    ShiftMLP,
    ShiftUNet,
    SparseDirection,
    TimeGate,
    attribute_error,
    attribute_error_mc,
    loss_time,
    train_diti,
)
from holdfast.diffusion.token_times import TokenTimeGroups
from holdfast.diffusion.warmup import TransferReport, WarmupConfig, embed_weights, embedded_warmup, truncate

__all__ = [
    "ADDP",
    "DIT_SIZES",
    "PDAE",
    "SAMPLERS",
    "AlignmentLoss",
    "AncestralMaskedSampler",
    "AttentionHead",
    "BernoulliCode",
    "BinaryDiffusion",
    "BinarySchedule",
    "BitPredictor",
    "BitTransformer",
    "BlockInfo",
    "Bottleneck",
    "CheckpointReport",
    "Code",
    "Coefficients",
    "ConfidenceSampler",
    "ConvAutoencoder",
    "ConvCodeEncoder",
    "ConvHead",
    "CosineMask",
    "CosinePath",
    "DDPMSchedule",
    "DataScaling",
    "DecoderFeedback",
    "Denoiser",
    "DenoisingMLP",
    "DiT",
    "DiTAdapter",
    "DiTi",
    "DiffusionEncoder",
    "DiffusionFeatureClassifier",
    "DiffusionFeatures",
    "DiffusionModel",
    "DiffusionObjective",
    "EDMPreconditioner",
    "EDMWeight",
    "EmpiricalDenoiser",
    "ExactBitDenoiser",
    "ExactChainDenoiser",
    "ExponentialDecay",
    "FeatureGrid",
    "FeatureTable",
    "FirstHittingSampler",
    "FrozenEncoder",
    "FrozenTokenizer",
    "FusionHead",
    "GaussianKL",
    "GaussianMixtureOracle",
    "GaussianOracle",
    "GeneratorEvaluation",
    "GeometricMask",
    "Guidance",
    "GuidedDenoiser",
    "JacobianSVD",
    "LabelEmbedding",
    "LinearHead",
    "LinearMask",
    "LinearPath",
    "LogNormalSigma",
    "MLPCodeEncoder",
    "MLPHead",
    "MarkovChain",
    "MaskSchedule",
    "MaskedTokenPredictor",
    "ModulatedBlock",
    "Output",
    "PatchDiscriminator",
    "Path",
    "PerceptualDistance",
    "Phase",
    "PhaseRecord",
    "PhasesResult",
    "PixelToToken",
    "Predictor",
    "Projector",
    "RatioLaw",
    "ReconstructionLoss",
    "RepresentationTarget",
    "Samples",
    "Schedule",
    "SelfAlignmentLoss",
    "ShiftMLP",
    "ShiftUNet",
    "SparseDirection",
    "Term",
    "TermContext",
    "TimeEmbedding",
    "TimeGate",
    "TimeGrid",
    "TokenModel",
    "TokenTimeGroups",
    "TokenTransformer",
    "TransferReport",
    "Transformer",
    "TwoStageMaskedSampler",
    "UNet",
    "UNetAdapter",
    "VEPath",
    "VPPath",
    "VectorQuantizer",
    "ViTEncoder",
    "WarmupConfig",
    "apply_edit",
    "attribute_error",
    "attribute_error_mc",
    "bernoulli",
    "binary_ancestral",
    "bit_probabilities",
    "bits_to_tokens",
    "block_cost",
    "categorical",
    "classifier_space",
    "code_perplexity",
    "cosine_alignment",
    "crop_and_flip",
    "ddim",
    "ddim_invert",
    "decompose_velocity_error",
    "denoising_loss",
    "dit_from_checkpoint",
    "draw_samples",
    "edit_direction",
    "edm_heun",
    "embed_weights",
    "embedded_warmup",
    "encode_all",
    "euler",
    "euler_maruyama",
    "evaluate_generator",
    "exact_masked_nelbo",
    "expected_nfe",
    "feature_quality_map",
    "few_labels",
    "finetune",
    "fit_phases",
    "gumbel_argmax",
    "gumbel_ceiling",
    "head_logits",
    "heun",
    "hitting_times",
    "inpaint",
    "jacobian_spectrum",
    "jacobian_svd",
    "karras_sigmas",
    "layer_decay_groups",
    "load_dit_checkpoint",
    "loss_time",
    "make_denoising_network",
    "mask_bernoulli",
    "mask_exactly",
    "masked_cross_entropy",
    "masked_nelbo",
    "model_hash",
    "model_space",
    "nested_masks",
    "ntxent_alignment",
    "numerical_rank",
    "pool_map",
    "pretrained_denoiser",
    "prior",
    "random_convolution_space",
    "resample_tokens",
    "sincos_positions",
    "soft_token_loss",
    "sweep_features",
    "teacher_times",
    "time_grid",
    "tokens_to_bits",
    "train_addp",
    "train_autoencoder",
    "train_binary_diffusion",
    "train_diffusion",
    "train_diti",
    "train_head",
    "train_judge",
    "train_token_predictor",
    "truncate",
    "truncated_ancestral_law",
    "truncated_gumbel_probs",
    "uniform_open",
    "wake_zero_layers",
    "weight_at",
]
