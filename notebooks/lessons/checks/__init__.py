"""Self-checks of the exercises: `nb02.NAME(your_function)` says whether an answer is right."""
