"""Log-probabilities, decoders, evaluation, perturbed copies of sets."""
