import math

import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from material import LAYER_NORM
from speechmill.model.ctc import IGNORED_LABEL, clip_losses

VOCABULARY = 6


def random_inputs(batch: int, frames: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits, and labels without repetitions."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, frames, VOCABULARY, generator=generator)
    return logits, torch.tensor([[1 + (i + j) % (VOCABULARY - 1) for j in range(labels)] for i in range(batch)])


def test_one_label_in_one_frame() -> None:
    # The label itself is the only path.
    logits, _ = random_inputs(1, 1, 1)
    loss = clip_losses(logits, torch.tensor([1]), torch.tensor([[3]]))
    torch.testing.assert_close(loss, -logits[0, 0].log_softmax(-1)[3:4])


def test_one_label_in_two_frames_sums_three_paths() -> None:
    # Graves et al., Connectionist Temporal Classification, ICML 2006, section 3: aa, a–, –a.
    logits, _ = random_inputs(1, 2, 1)
    p = logits[0].softmax(-1)
    expected = -math.log(p[0, 3] * p[1, 3] + p[0, 3] * p[1, 0] + p[0, 0] * p[1, 3])
    assert clip_losses(logits, torch.tensor([2]), torch.tensor([[3]])).item() == pytest.approx(expected, rel=1e-5)


def test_empty_text_is_the_path_of_blanks() -> None:
    logits, _ = random_inputs(1, 4, 0)
    loss = clip_losses(logits, torch.tensor([4]), torch.full((1, 0), IGNORED_LABEL))
    torch.testing.assert_close(loss, -logits[0].log_softmax(-1)[:, 0].sum()[None])


def test_mean_equals_the_loss_of_transformers() -> None:
    torch.manual_seed(0)
    settings = {key: value for key, value in LAYER_NORM.items() if key != "model_type"}
    config = Wav2Vec2Config(**settings, vocab_size=VOCABULARY, pad_token_id=0, ctc_loss_reduction="mean")
    model = Wav2Vec2ForCTC(config).eval()
    samples, mask = torch.randn(3, 16_000), torch.ones(3, 16_000, dtype=torch.long)
    lengths = torch.tensor([16_000, 12_000, 9_000])
    for i, length in enumerate(lengths):
        samples[i, length:], mask[i, length:] = 0, 0
    labels = torch.tensor(
        [
            [1, 2, 3, 4, 5],
            [2, 2, 3, IGNORED_LABEL, IGNORED_LABEL],
            [5, IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL],
        ]
    )
    with torch.no_grad():
        output = model(samples, attention_mask=mask, labels=labels)
        frames = model._get_feat_extract_output_lengths(lengths)
        losses = clip_losses(output.logits, frames, labels)
    torch.testing.assert_close(losses.mean(), output.loss)


def test_padding_has_no_effect() -> None:
    logits, labels = random_inputs(2, 20, 5)
    alone = clip_losses(logits, torch.tensor([20, 20]), labels)
    wider = torch.cat([logits, torch.full((2, 7, VOCABULARY), 50.0)], dim=1)
    longer = torch.cat([labels, torch.full((2, 3), IGNORED_LABEL)], dim=1)
    torch.testing.assert_close(clip_losses(wider, torch.tensor([20, 20]), longer), alone)


def test_clips_do_not_affect_each_other() -> None:
    logits, labels = random_inputs(4, 20, 5)
    together = clip_losses(logits, torch.full((4,), 20), labels)
    for i in range(4):
        torch.testing.assert_close(
            clip_losses(logits[i : i + 1], torch.tensor([20]), labels[i : i + 1]), together[i : i + 1]
        )


@pytest.mark.parametrize(("labels", "frames"), [([1, 2, 3], 3), ([1, 1, 1], 5), ([1, 2, 2, 3], 5)])
def test_loss_is_infinite_iff_frames_are_too_few(labels: list[int], frames: int) -> None:
    logits, _ = random_inputs(1, 8, 1)
    assert clip_losses(logits, torch.tensor([frames]), torch.tensor([labels])).isfinite().all()
    assert clip_losses(logits, torch.tensor([frames - 1]), torch.tensor([labels])).isinf().all()


def test_infinite_loss_does_not_affect_other_clips() -> None:
    logits, labels = random_inputs(2, 20, 5)
    losses = clip_losses(logits, torch.tensor([2, 20]), labels)
    assert losses[0].isinf()
    torch.testing.assert_close(losses[1:], clip_losses(logits[1:], torch.tensor([20]), labels[1:]))


def test_loss_of_half_precision_logits_is_fp32() -> None:
    logits, labels = random_inputs(2, 20, 5)
    halved = clip_losses(logits.bfloat16(), torch.tensor([20, 20]), labels)
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, clip_losses(logits.bfloat16().float(), torch.tensor([20, 20]), labels))


def test_loss_and_gradient_equal_those_of_concatenated_labels() -> None:
    logits, labels = random_inputs(3, 20, 5)
    labels[1, 3:], labels[2, :] = IGNORED_LABEL, IGNORED_LABEL
    frames, lengths = torch.tensor([20, 15, 9]), torch.tensor([5, 3, 0])
    padded, concatenated = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    losses = clip_losses(padded, frames, labels)
    log_probs = concatenated.log_softmax(-1).transpose(0, 1)
    text = labels[labels != IGNORED_LABEL]
    expected = torch.nn.functional.ctc_loss(log_probs, text, frames, lengths, reduction="none") / lengths.clamp(min=1)
    assert torch.equal(losses, expected)
    losses.sum().backward()
    expected.sum().backward()
    assert torch.equal(padded.grad, concatenated.grad)
