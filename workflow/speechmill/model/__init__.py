"""CTC models of transformers: loading, loss, inputs, batches, devices."""
