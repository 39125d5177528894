"""Is a GGUF file the model it says it is?"""
