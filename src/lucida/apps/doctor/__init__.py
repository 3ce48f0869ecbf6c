"""`lucida doctor`: what is broken in the environment or in a recipe, and what to do."""
