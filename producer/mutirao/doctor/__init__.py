"""What `mutirao doctor` looks at, and what it makes of it: a snapshot is read once, and each check is a function of it."""
