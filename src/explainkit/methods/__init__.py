"""Saliency methods: frozen dataclasses, called with a model, images and targets.

Every built-in method can be imported from here; its module is loaded only then.

Examples:
    >>> from explainkit.methods import IntegratedGradients
    >>> IntegratedGradients(steps=20).rule
    'gausslegendre'
"""

import pkgutil
from typing import TYPE_CHECKING

from explainkit.catalog.builtin import METHOD_CLASSES, methods_hint

if TYPE_CHECKING:
    from explainkit.methods.attention.attn_lrp import AttnLRP as AttnLRP
    from explainkit.methods.attention.legrad import LeGrad as LeGrad
    from explainkit.methods.attention.libragrad import LibraGrad as LibraGrad
    from explainkit.methods.attention.rollout import AttentionRollout as AttentionRollout
    from explainkit.methods.attention.rollout import GradientRollout as GradientRollout
    from explainkit.methods.cam.ablation import AblationCAM as AblationCAM
    from explainkit.methods.cam.aug_smooth import AugSmooth as AugSmooth
    from explainkit.methods.cam.eigen import KPCACAM as KPCACAM
    from explainkit.methods.cam.eigen import EigenCAM as EigenCAM
    from explainkit.methods.cam.eigen import EigenGradCAM as EigenGradCAM
    from explainkit.methods.cam.finer import FinerCAM as FinerCAM
    from explainkit.methods.cam.gradient import ElementwiseCAM as ElementwiseCAM
    from explainkit.methods.cam.gradient import GradCAM as GradCAM
    from explainkit.methods.cam.gradient import GradCAMPlusPlus as GradCAMPlusPlus
    from explainkit.methods.cam.gradient import HiResCAM as HiResCAM
    from explainkit.methods.cam.gradient import LayerCAM as LayerCAM
    from explainkit.methods.cam.gradient import XGradCAM as XGradCAM
    from explainkit.methods.cam.guided import GuidedGradCAM as GuidedGradCAM
    from explainkit.methods.cam.recipro import ReciproCAM as ReciproCAM
    from explainkit.methods.cam.score import ScoreCAM as ScoreCAM
    from explainkit.methods.cam.shapley import ShapleyCAM as ShapleyCAM
    from explainkit.methods.gradient import InputXGradient as InputXGradient
    from explainkit.methods.gradient import Saliency as Saliency
    from explainkit.methods.gradient import SmoothGrad as SmoothGrad
    from explainkit.methods.gradient import SmoothGradSquared as SmoothGradSquared
    from explainkit.methods.gradient import VarGrad as VarGrad
    from explainkit.methods.path.blur import BlurIG as BlurIG
    from explainkit.methods.path.conductance import Conductance as Conductance
    from explainkit.methods.path.conductance import InternalInfluence as InternalInfluence
    from explainkit.methods.path.expected import ExpectedGradients as ExpectedGradients
    from explainkit.methods.path.guided import GuidedIG as GuidedIG
    from explainkit.methods.path.idgi import IDGI as IDGI
    from explainkit.methods.path.integrated import IntegratedGradients as IntegratedGradients
    from explainkit.methods.path.xrai import XRAI as XRAI
    from explainkit.methods.perturbation.ablation import FeatureAblation as FeatureAblation
    from explainkit.methods.perturbation.lime import Lime as Lime
    from explainkit.methods.perturbation.occlusion import Occlusion as Occlusion
    from explainkit.methods.perturbation.optimal import ExtremalPerturbation as ExtremalPerturbation
    from explainkit.methods.perturbation.optimal import (
        MeaningfulPerturbation as MeaningfulPerturbation,
    )
    from explainkit.methods.perturbation.partition import PartitionShap as PartitionShap
    from explainkit.methods.perturbation.rise import Rise as Rise
    from explainkit.methods.perturbation.sensitivity import Hsic as Hsic
    from explainkit.methods.perturbation.sensitivity import Sobol as Sobol
    from explainkit.methods.perturbation.shapley import KernelShap as KernelShap
    from explainkit.methods.perturbation.shapley import ShapleySampling as ShapleySampling
    from explainkit.methods.propagation.deeplift import DeepLift as DeepLift
    from explainkit.methods.propagation.deeplift import DeepLiftShap as DeepLiftShap
    from explainkit.methods.propagation.full_gradient import FullGradient as FullGradient
    from explainkit.methods.propagation.guided import Deconvnet as Deconvnet
    from explainkit.methods.propagation.guided import GuidedBackprop as GuidedBackprop
    from explainkit.methods.propagation.lrp import LRP as LRP
    from explainkit.methods.propagation.lrp import DeepTaylor as DeepTaylor
    from explainkit.methods.propagation.lrp import ExcitationBackprop as ExcitationBackprop


def __getattr__(name: str) -> object:
    if name not in METHOD_CLASSES:
        raise AttributeError(
            f"module 'explainkit.methods' has no attribute {name!r}{methods_hint(name)}"
        )
    return pkgutil.resolve_name(METHOD_CLASSES[name])


def __dir__() -> list[str]:
    return sorted(METHOD_CLASSES)
