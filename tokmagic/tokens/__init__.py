"""Text becomes token ids and counts, exactly, without a model's weights."""
