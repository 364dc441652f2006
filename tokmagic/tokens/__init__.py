"""Text becomes token ids and counts, exactly, without a model's weights.

Door: ``tokenizer`` (a model's own, with its chat template), ``encodings`` (OpenAI's), ``counter`` (text being edited).
It never downloads anything, and never imports torch.
"""
