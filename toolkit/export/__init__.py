"""The export of trained runs to GGUF files, which llama.cpp and Ollama can run."""
