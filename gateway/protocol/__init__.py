"""Open Inference Protocol v2: shapes, tensors and their JSON form."""
