"""Error rates, protocols, intervals and tests, summaries, selection."""
