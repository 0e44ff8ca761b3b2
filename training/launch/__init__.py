"""How a training program starts: the command line that the examples share, and the memory allocator."""
