"""Planning and training: cost, Trainer, augmentation, resume state, several processes."""
