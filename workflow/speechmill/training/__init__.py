"""Planning and training: cost, Trainer, augmentation, resume states, distributed training."""
