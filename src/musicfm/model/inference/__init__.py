"""The model laid out for inference."""
