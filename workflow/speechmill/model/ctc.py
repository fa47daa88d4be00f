"""The CTC criterion, clip by clip, and the entries of a vocabulary that are no characters."""

import torch
from torch.nn.functional import ctc_loss, log_softmax

IGNORED = -100
"""The label that stands where a shorter text has ended."""

BLANK = 0
"""The id of the blank, which is the padding token."""

PAD, UNKNOWN, SPACE = "[PAD]", "[UNK]", "|"
"""How a vocabulary writes the blank, a character that it lacks, and the space."""


def clip_losses(logits: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor, blank: int = BLANK) -> torch.Tensor:
    """The negative log-likelihood of each clip's labels divided by their number, shape (batch,), in fp32.

    `logits` has the shape (batch, frames, vocabulary), `frames` says how many of each clip's count, `labels` is padded
    with IGNORED. Their mean is what transformers calls `ctc_loss_reduction="mean"`. Infinite where a clip has too few
    frames for its labels. In models that were made elsewhere the `blank` may have another id.
    """
    log_probs = log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)
    real = labels != IGNORED
    lengths = real.sum(-1)
    # cuDNN's kernel has given NaN where the native one does not.
    with torch.backends.cudnn.flags(enabled=False):
        losses = ctc_loss(log_probs, labels.masked_select(real), frames, lengths, blank=blank, reduction="none")
    return losses / lengths.clamp(min=1)
