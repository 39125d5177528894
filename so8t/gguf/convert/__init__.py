"""A Hugging Face directory written as a GGUF file."""
