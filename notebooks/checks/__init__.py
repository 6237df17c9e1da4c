"""Self-checks of the exercises: `from checks import nb02`, then `nb02.NAME(your_function)`."""
