"""speechmill: from a speech corpus to a fine-tuned CTC model whose every number can be derived again."""
