"""Ollama: registration of released models and the check of what the server then serves."""
