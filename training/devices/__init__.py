"""Where a model trains: many devices, many processes, the types it computes in."""
