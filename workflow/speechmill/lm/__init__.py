"""The n-gram language model: its text, KenLM, the weights of beam search."""
