"""What tests start, run and look with: servers, workers, models that misbehave, recorders; no test is in here."""
