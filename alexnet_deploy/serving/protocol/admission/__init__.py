"""Which gRPC calls are taken on, in which order their messages are read, and how large these may be."""
