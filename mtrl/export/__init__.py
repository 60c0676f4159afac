"""Policies as files for other programs: torch.export, ONNX, model cards and the Hugging Face hub."""
