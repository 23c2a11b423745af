"""What each type of encoder is: the schema of its config.json, where its parts are, its graph for ONNX."""
