"""CTC models of transformers: creation, loss, inputs, batches, devices."""
