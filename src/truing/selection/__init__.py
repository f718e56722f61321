"""Which rows are worth training on: pure functions of scores, embeddings and log-probabilities, without torch."""
