"""Waiting for jobs' ends, and streams of what happens."""
