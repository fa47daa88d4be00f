"""The n-gram language model: training text, estimation with KenLM, and tuning of the decoding weights."""
