"""The supervisor, the worker's side of applying documents, and the link between them."""
