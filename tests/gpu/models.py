"""The model of the measurements, XLS-R 1B with random weights, and a tiny one of the same architecture."""

from typing import Any

# facebook/wav2vec2-xls-r-1b, and its values for SpecAugment and dropout in fine-tuning.
XLS_R_1B: dict[str, Any] = {
    "hidden_size": 1280,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "pad_token_id": 0,
    "ctc_loss_reduction": "mean",
    "layerdrop": 0.1,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "feat_proj_dropout": 0.1,
    "activation_dropout": 0.0,
    "mask_time_prob": 0.075,
}
SMALL = XLS_R_1B | {
    # More than the 64 features that the published recipes mask together.
    "hidden_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
}
