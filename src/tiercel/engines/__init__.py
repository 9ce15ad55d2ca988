"""What runs a model: onnxruntime for encoders."""
