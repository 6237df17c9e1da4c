"""One answer to each exercise: look once you have tried."""
