"""Where versions run: in process on ONNX Runtime, or on a remote server of the Open Inference Protocol."""
