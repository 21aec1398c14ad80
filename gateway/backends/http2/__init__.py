"""What gRPC needs of HTTP/2, for a client: frames, header blocks, one connection that carries many calls."""
