"""The records and encodings that travel between processes: requests, results, tensors, signatures."""
