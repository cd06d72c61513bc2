"""GGUF files, llama.cpp's checkpoints, as models: what the disk tells of one, and how transformers gets to read it."""
