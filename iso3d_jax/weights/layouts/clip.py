"""The vision tower's layouts: open_clip's (also inside Isotropic3D's file) and transformers'."""

from __future__ import annotations

from iso3d_jax.models.clip import CLIPConfig
from iso3d_jax.weights.rules import Rule

OPEN_CLIP_PREFIX = "visual."

OPEN_CLIP = (
    Rule(r"(class_embedding|positional_embedding|proj)", r"\1"),
    Rule(r"(conv1|ln_pre|ln_post)/*", r"\1.*"),
    Rule(r"blocks/(\d+)/(ln_[12])/*", r"transformer.resblocks.\1.\2.*"),
    Rule(r"blocks/(\d+)/qkv/kernel", r"transformer.resblocks.\1.attn.in_proj_weight"),
    Rule(r"blocks/(\d+)/qkv/bias", r"transformer.resblocks.\1.attn.in_proj_bias"),
    Rule(r"blocks/(\d+)/out_proj/*", r"transformer.resblocks.\1.attn.out_proj.*"),
    Rule(r"blocks/(\d+)/(c_fc|c_proj)/*", r"transformer.resblocks.\1.mlp.\2.*"),
)

OPEN_CLIP_LEFTOVERS = (
    r"(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)$",
    r"(transformer|token_embedding|ln_final)\.",
)

_LAYER = r"vision_model.encoder.layers.\1."

TRANSFORMERS = (
    Rule(r"class_embedding", "vision_model.embeddings.class_embedding"),
    Rule(r"positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    Rule(r"proj", "visual_projection.weight", "transposed"),
    Rule(r"conv1/*", "vision_model.embeddings.patch_embedding.*"),
    Rule(r"ln_pre/*", "vision_model.pre_layrnorm.*"),
    Rule(r"ln_post/*", "vision_model.post_layernorm.*"),
    Rule(r"blocks/(\d+)/ln_([12])/*", rf"{_LAYER}layer_norm\2.*"),
    Rule(r"blocks/(\d+)/qkv/*", tuple(f"{_LAYER}self_attn.{part}_proj.*" for part in "qkv")),
    Rule(r"blocks/(\d+)/out_proj/*", f"{_LAYER}self_attn.out_proj.*"),
    Rule(r"blocks/(\d+)/c_fc/*", f"{_LAYER}mlp.fc1.*"),
    Rule(r"blocks/(\d+)/c_proj/*", f"{_LAYER}mlp.fc2.*"),
)

TRANSFORMERS_LEFTOVERS = (
    r"vision_model\.embeddings\.position_ids$",
    r"text_model\.",
    r"(text_projection\.weight|logit_scale)$",
)


def transformers_settings(config: CLIPConfig) -> dict:
    """`config.json` of transformers' `CLIPVisionModelWithProjection` for one of our towers."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "hidden_size": config.width,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "projection_dim": config.output_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
    }
