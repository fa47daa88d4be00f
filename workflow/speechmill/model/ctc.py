"""The CTC loss. `clip_losses` is the only place where speechmill computes it.

Two stages call it, and both choose for themselves how to combine the losses of several clips:

- Training: `CtcTrainer.compute_loss` in `training/trainer.py` averages over all clips of an optimizer step.
- Inference: `inference/log_probs.py` stores the loss of each clip for the evaluation.

What can be changed here: any other function that maps logits, numbers of frames and labels to one value per clip can
replace the loss or be added to it, such as an entropy regularisation, and both callers use it at once. How clips are
weighted against each other is not decided here but in the callers. Keep these properties, on which they rely:

- The loss is computed in fp32, whatever the precision of the logits.
- PyTorch's native kernel is used, not cuDNN's, which has returned NaN for batches where the native kernel does not.
- Labels and numbers of frames are on the host, where the native kernel needs their lengths. On a GPU it copies these to
  the device by itself, during which the host waits: three times before and three times in the backward pass.
- The blank is the padding token, whose id is `BLANK` (0) in every vocabulary that speechmill builds. Only a model that
  was trained elsewhere may have another id, which inference passes as `blank`.
- The loss of a clip is divided by its number of labels, and does not depend on the other clips of the batch or on
  padding.

The loss that transformers computes when a model is called with `labels` is not used, for two reasons. It is already
averaged over the batch, so clips could not count equally when the batches of a step differ in size. And without an
attention mask it counts the frames of the padding as part of each clip. On a batch with an attention mask, the mean of
`clip_losses` equals transformers' loss with `ctc_loss_reduction="mean"`, except where the last frame of a clip is
partly padding (w2v-BERT and Parakeet): it is decoded, and therefore counts here, but not in transformers' loss.
"""

import torch
from torch.nn.functional import ctc_loss, log_softmax

from speechmill.model.devices import to_device
from speechmill.text.tokens import BLANK

IGNORED_LABEL = -100
"""The value that pads the labels of shorter texts; transformers uses the same one."""


def clip_losses(logits: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor, blank: int = BLANK) -> torch.Tensor:
    """Return the negative log-likelihood of each clip's labels divided by their number, shape (batch,), in fp32.

    A loss is infinite where a clip has too few frames for its labels.

    Args:
        logits: The outputs of the model, shape (batch, frames, vocabulary), in any precision.
        frames: The number of frames of each clip without padding, shape (batch,), on the host.
        labels: The token ids of each text, padded with IGNORED_LABEL, shape (batch, longest text), on the host.
        blank: The id of the blank.
    """
    log_probs = log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)
    num_labels = (labels != IGNORED_LABEL).sum(-1)
    # The padding is not used, but must not be an invalid index where a kernel reads it.
    targets = to_device(labels.clamp(min=0), logits.device)
    # cuDNN's kernel has returned NaN where the native one does not.
    with torch.backends.cudnn.flags(enabled=False):
        losses = ctc_loss(log_probs, targets, frames, num_labels, blank=blank, reduction="none")
    return losses / to_device(num_labels.clamp(min=1), logits.device)
