"""speechmill: from speech corpora to fine-tuned CTC models whose every figure is reproducible."""
