"""CTC outputs, decoders, evaluation, and perturbed copies of evaluation sets."""
