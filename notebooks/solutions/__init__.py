"""One answer to each exercise: `from solutions import nb02`; look once you have tried."""
