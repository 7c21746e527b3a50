"""Networks of `benchmarks.coverage`: a row each, in a small setting."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A network in a small setting."""

    module: str
    """Module that holds the constructor."""
    constructor: str
    arguments: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (1, 3, 16, 16)
    """Shape of the example input."""
    second_shape: tuple[int, ...] = (2, 3, 32, 24)
    """A second input, of another size and batch."""
    positional: tuple[Any, ...] = ()
    casts_to_single: bool = False
    """Whether its forward casts to single precision: `float()` then casts to double instead, so
    that rounding does not hide a difference."""
    asserts_single: bool = False
    """Whether its forward asserts single precision: tensors then say that they are single."""
    takes_mask: bool = False
    """Whether its second input is a mask (N, 1, H, W) of zeros and ones."""


def _spandrel(folder: str, name: str = "", size: int = 16, second: Any = None, planes: int = 3,
              package: str = "spandrel", casts_to_single: bool = False,
              asserts_single: bool = False, takes_mask: bool = False,
              **arguments: Any) -> Setting:  # fmt: skip
    rows, columns = second or (2 * size, size + size // 2)
    return Setting(
        f"{package}.architectures.{folder}",
        name or folder,
        arguments,
        (1, planes, size, size),
        (2, planes, rows, columns),
        casts_to_single=casts_to_single,
        asserts_single=asserts_single,
        takes_mask=takes_mask,
    )


def _extra(folder: str, **more: Any) -> Setting:
    return _spandrel(folder, package="spandrel_extra_arches", **more)


_SWIN = {"img_size": 40, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2]}
_UP = {"upscale": 2, "upsampler": "pixelshuffle"}

SPANDREL = {
    "ATD": _spandrel("ATD", **_SWIN, **_UP, window_size=8, category_size=64, num_tokens=16),
    "AuraSR": _spandrel(
        "AuraSR", size=16, second=(16, 16), dim=8, image_size=64, input_image_size=16,
        up_dim_mults=(1, 2, 2), down_dim_mults=(2,), full_attn=(False, False, True),
        attn_depths=(1, 1, 1), mid_attn_depth=1, self_attn_dim_head=8, self_attn_heads=2,
        style_network={"dim_in": 16, "dim_out": 16, "depth": 2}, unconditional=True,
    ),
    "CRAFT": _spandrel("CRAFT", embed_dim=32, depths=[1, 1], num_heads=[2, 2], upscale=2),
    "Compact": _spandrel("Compact", num_feat=16, num_conv=3, upscale=2),
    "DAT": _spandrel("DAT", img_size=40, embed_dim=32, split_size=[2, 4], depth=[2, 2],
                     num_heads=[2, 2], upscale=2),
    "DCTLSA": _spandrel("DCTLSA", nf=20, num_modules=6, upscale=2, num_head=5),
    "DITN": _spandrel("DITN", dim=12, ITL_blocks=1, SAL_blocks=1, UFONE_blocks=1, upscale=2),
    "DRCT": _spandrel("DRCT", **_SWIN, **_UP, window_size=8, gc=8),
    "DRUNet": _spandrel("DRUNet", in_nc=3, out_nc=3, nc=[8, 16, 24, 32], nb=1),
    "DnCNN": _spandrel("DnCNN", in_nc=3, out_nc=3, nc=16, nb=5),
    "ESRGAN": _spandrel("ESRGAN", num_filters=16, num_blocks=1, scale=2),
    "FBCNN": _spandrel("FBCNN", size=20, nc=[8, 16, 24, 512], nb=1),
    "FDAT": _spandrel("FDAT", embed_dim=16, num_groups=1, depth_per_group=2, num_heads=2, scale=2,
                      mid_dim=16),
    "FFTformer": _spandrel("FFTformer", size=32, casts_to_single=True, dim=8, num_blocks=[1, 1, 1],
                           num_refinement_blocks=1),
    "GFPGAN": _spandrel("GFPGAN", size=32, second=(32, 32), out_size=32, num_style_feat=16,
                        num_mlp=1, narrow=0.0625),
    "GRL": _spandrel("GRL", casts_to_single=True, img_size=40, embed_dim=16, depths=[1, 1],
                     num_heads_window=[1, 1], num_heads_stripe=[1, 1], window_size=8,
                     stripe_size=[8, 8], anchor_window_down_factor=2, mlp_ratio=2.0, **_UP),
    "HAT": _spandrel("HAT", **_SWIN, **_UP, window_size=8, num_feat=16, squeeze_factor=4),
    "HVICIDNet": _spandrel("HVICIDNet", size=32, channels=[8, 8, 16, 32]),
    "IPT": _spandrel("IPT", size=24, patch_size=24, patch_dim=3, n_feats=8, scale=[2],
                     num_heads=2, num_layers=1),
    "KBNet_l": _spandrel("KBNet", "KBNet_l", dim=48, num_blocks=[1, 1, 1, 1],
                         num_refinement_blocks=1),
    "LaMa": _spandrel("LaMa", size=32, takes_mask=True, in_nc=4),
    "MMRealSR": _spandrel("MMRealSR", num_in_ch=3, num_out_ch=3, num_feat=16, num_block=1,
                          num_grow_ch=8, num_feats=[8, 8, 16, 16], num_blocks=[1, 1, 1, 1]),
    "MixDehazeNet": _spandrel("MixDehazeNet", size=64, embed_dims=[8, 16, 32, 16, 8]),
    "MoESR": _spandrel("MoESR", dim=16, n_blocks=1, n_block=1, scale=2, upsample_dim=16),
    "MoSR": _spandrel("MoSR", n_block=2, dim=16, upscale=2),
    "NAFNet": _spandrel("NAFNet", width=8, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "OmniSR": _spandrel("OmniSR", num_feat=16, up_scale=2, window_size=8),
    "PLKSR": _spandrel("PLKSR", dim=16, n_blocks=2, upscaling_factor=2),
    "RealPLKSR": _spandrel("PLKSR", "RealPLKSR", dim=16, n_blocks=2, upscaling_factor=2),
    "RCAN": _spandrel("RCAN", scale=2, n_resgroups=2, n_resblocks=1, n_feats=16, reduction=4),
    "RGT": _spandrel("RGT", img_size=40, embed_dim=32, depth=[2, 2], num_heads=[2, 2], upscale=2),
    "RealCUGAN": _spandrel("RealCUGAN", "UpCunet2x", size=48),
    "RestoreFormer": _spandrel("RestoreFormer", size=32, n_embed=16, embed_dim=32, ch=32,
                               ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,),
                               resolution=32, z_channels=32),
    "RetinexFormer": _spandrel("RetinexFormer", n_feat=8, stage=1),
    "SAFMN": _spandrel("SAFMN", dim=16, n_blocks=2, upscaling_factor=2),
    "SAFMNBCIE": _spandrel("SAFMNBCIE", dim=16, n_blocks=2, num_layers=2, upscaling_factor=2),
    "SCUNet": _spandrel("SCUNet", size=64, second=(64, 128), config=[1, 1, 1, 1, 1, 1, 1],
                        dim=64, input_resolution=64),
    "SPAN": _spandrel("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
    "SeemoRe": _spandrel("SeemoRe", scale=2, num_experts=3, num_layers=2, embedding_dim=16),
    "SwiftSRGAN": _spandrel("SwiftSRGAN", num_channels=16, num_blocks=2, upscale_factor=2),
    "Swin2SR": _spandrel("Swin2SR", **_SWIN, **_UP, window_size=8),
    "SwinIR": _spandrel("SwinIR", **_SWIN, **_UP, window_size=8),
    "Uformer": _spandrel("Uformer", size=128, second=(128, 128), img_size=128, embed_dim=8,
                         depths=[1] * 9),
    "AdaCode": _extra("AdaCode", size=64, gt_resolution=256, codebook_params=[[32, 16, 16]]),
    "CodeFormer": _extra("CodeFormer", casts_to_single=True, size=512, second=(512, 512),
                         dim_embd=32, n_head=2, n_layers=1, codebook_size=32),
    "DDColor": _extra("DDColor", size=64, second=(64, 64), encoder_name="convnext-t",
                      input_size=(64, 64), nf=64, num_queries=8, dec_layers=3),
    "FeMaSR": _extra("FeMaSR", size=32, gt_resolution=256, codebook_params=[[32, 16, 16]]),
    "M3SNet": _extra("M3SNet", size=32, width=8, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "MAT": _extra("MAT", size=512, second=(512, 512), casts_to_single=True,
                  asserts_single=True, takes_mask=True),
    "MIRNet2": _extra("MIRNet2", n_feat=16, n_MRB=1),
    "MPRNet": _extra("MPRNet", size=32, n_feat=8, scale_unetfeats=4, scale_orsnetfeats=4,
                     num_cab=1),
    "Restormer": _extra("Restormer", dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1),
    "SRFormer": _extra("SRFormer", img_size=40, embed_dim=16, depths=(2, 2), num_heads=(2, 2),
                       window_size=8, **_UP),
}  # fmt: skip


def _named(module: str, name: str, size: int, **arguments: Any) -> Setting:
    return Setting(module, name, arguments, (1, 3, size, size), (2, 3, size + 32, size))


def _timm(name: str, size: int = 64, **arguments: Any) -> Setting:
    return Setting(
        "timm", "create_model", {"num_classes": 10, **arguments}, (1, 3, size, size),
        (2, 3, size + 32, size), (name,),
    )  # fmt: skip


_TIMM_NAMES = (
    "resnet18", "resnet26d", "resnext26ts", "seresnet33ts", "res2net50_14w_8s", "resnest14d",
    "skresnet18", "ecaresnet26t", "gernet_s", "cspresnet50", "cspdarknet53", "darknet53", "dla34",
    "dla46x_c", "densenet121", "vovnet39a", "ese_vovnet19b_dw", "dpn48b", "vgg11_bn",
    "inception_v3", "inception_v4", "inception_resnet_v2", "xception41", "xception71",
    "nasnetalarge", "mobilenetv2_050", "mobilenetv3_small_050", "mobilenetv4_conv_small_050",
    "efficientnet_b0", "tf_efficientnetv2_b0", "efficientnet_lite0", "fbnetc_100", "fbnetv3_b",
    "mnasnet_small", "spnasnet_100", "mixnet_s", "tinynet_e", "lcnet_035", "ghostnet_050",
    "ghostnetv2_100", "hardcorenas_a", "rexnet_100", "regnetx_002", "regnety_002", "nf_regnet_b0",
    "nfnet_f0", "resnetv2_50x1_bit", "repvgg_a0", "mobileone_s0", "repghostnet_050",
    "hrnet_w18_small", "selecsls42",
    "hgnet_tiny", "hgnetv2_b0", "convnext_atto", "convnextv2_atto", "convmixer_768_32",
    "poolformer_s12", "mambaout_femto", "rdnet_tiny", "edgenext_xx_small", "fasternet_t0",
    "starnet_s1", "inception_next_atto", "repvit_m1", "focalnet_tiny_srf",
)  # fmt: skip
_SMALL_TIMM = {
    "convmixer_768_32": ("convmixer_768_32", {}),
}
TIMM = {name: _timm(name, size=96 if "inception" in name or "nasnet" in name else 64)
        for name in _TIMM_NAMES if name not in _SMALL_TIMM}  # fmt: skip

_CLASSIFIERS = (
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2",
    "squeezenet1_1", "densenet121", "inception_v3", "googlenet", "shufflenet_v2_x0_5",
    "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "efficientnet_b0", "efficientnet_v2_s",
    "regnet_y_400mf", "regnet_x_400mf", "convnext_tiny", "vit_b_32", "swin_t", "swin_v2_t",
    "maxvit_t",
)  # fmt: skip
_SEGMENTATION = (
    "fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)  # fmt: skip
_SIZES = {"inception_v3": 96, "vit_b_32": 224, "maxvit_t": 224}
_WITHOUT_PRETRAINED = {
    "inception_v3": {"init_weights": False, "aux_logits": True},
    "googlenet": {"init_weights": False},
}
TORCHVISION = {
    **{name: _named("torchvision.models", name, _SIZES.get(name, 64), num_classes=10,
                    **_WITHOUT_PRETRAINED.get(name, {})) for name in _CLASSIFIERS},
    # Windows are shifted where an image has more than one: the second size must have as many.
    "swin_v2_t": Setting("torchvision.models", "swin_v2_t", {"num_classes": 10},
                         (1, 3, 256, 256), (2, 3, 256, 224)),
    **{name: _named("torchvision.models.segmentation", name, 64, num_classes=5,
                    weights_backbone=None) for name in _SEGMENTATION},
}  # fmt: skip

NETWORKS = {"spandrel": SPANDREL, "timm": TIMM, "torchvision": TORCHVISION}
