"""What a position is trained to predict: a token id, or nothing."""

IGNORE = -100  # the label of a position without loss, as in torch and transformers
