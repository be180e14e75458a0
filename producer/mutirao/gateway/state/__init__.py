"""What the handlers of one gateway process share: its connections, its submits, its copies of what Redis holds."""
