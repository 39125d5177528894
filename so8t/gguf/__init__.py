"""From a stock Hugging Face directory to GGUF: convert, quantise, verify."""
