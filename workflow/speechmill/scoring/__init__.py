"""Error rates, scoring protocols, confidence intervals and significance tests, summaries, checkpoint selection."""
