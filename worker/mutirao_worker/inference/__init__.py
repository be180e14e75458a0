"""What runs in the processes of the pool: decode, predict, encode."""
