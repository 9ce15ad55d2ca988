"""What runs a model: onnxruntime for encoders; llama.cpp, vLLM or any server by URL for what generates."""
