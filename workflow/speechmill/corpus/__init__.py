"""From a published corpus to clips: sources, download, decoding, shards, audit, selection of clips, leakage."""
