"""What travels between processes, and nothing else: requests, results, tensors, signatures."""
