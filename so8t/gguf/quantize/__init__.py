"""A GGUF file quantised through libllama, with or without an importance matrix."""
