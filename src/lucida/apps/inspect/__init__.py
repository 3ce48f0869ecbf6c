"""`lucida inspect`: one real batch of a recipe as the model sees it."""
